"""Corrections of costs: planned in steps, in use only when all of them are through."""

from collections.abc import Iterator

import pytest

from device_agent.elastic import Elastic
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from tests.planning_facts import random_facts

ASKS = (Ask(64, 1 << 30, target_ms=80.0), Ask(64, 1 << 30, target_ms=200.0))


def nothing(_plan: Plan) -> frozenset[int]:
    return frozenset()


def slower(times: PhaseTimes, factor: float) -> PhaseTimes:
    return PhaseTimes(
        times.read_ms * factor, times.prepare_ms * factor, times.execute_ms * factor,
        total_ms=(times.total_ms - times.outside_ms) * factor, outside_ms=times.outside_ms * factor,
    )  # fmt: skip


@pytest.fixture
def slowed() -> Iterator[Elastic]:
    """Asked for two targets by turns, on a device that turns out to be half as fast as measured."""
    elastic = Elastic(random_facts(1, 4, 4, (2, 4, 8)))
    for _ in range(8):
        for ask in ASKS:
            decision = elastic.decide(ask, nothing)
            times = decision.promise.times
            elastic.observe(times, slower(times, 2.0), decision.plan)
    yield elastic


def test_costs_that_are_off_are_corrected(slowed: Elastic) -> None:
    before = slowed.costs
    assert slowed.refresh() and not slowed.renewing
    assert slowed.costs.read.ms(1000) == pytest.approx(2 * before.read.ms(1000), rel=0.05)
    assert not slowed.refresh(), "once is enough"


def test_an_interrupted_correction_goes_on_and_meanwhile_changes_nothing(slowed: Elastic) -> None:
    costs, choices = slowed.costs, [slowed.choose(ask) for ask in ASKS]
    steps = 0
    while not slowed.refresh(lambda: True):
        steps += 1
        assert slowed.renewing
        assert slowed.costs is costs
        assert [slowed.choose(ask) for ask in ASKS] == choices
    assert steps == 2 * len(ASKS)
    assert slowed.costs != costs and not slowed.renewing


def test_without_a_rest_costs_are_corrected_all_the_same(slowed: Elastic) -> None:
    costs = slowed.costs
    slowed.refresh(lambda: True)
    for _ in range(20):
        decision = slowed.decide(ASKS[0], nothing)
        times = decision.promise.times
        slowed.observe(times, slower(times, 2.0), decision.plan)
    assert slowed.costs != costs


def test_runs_that_go_as_promised_change_nothing() -> None:
    elastic = Elastic(random_facts(1, 4, 4, (2, 4, 8)))
    for _ in range(20):
        decision = elastic.decide(ASKS[0], nothing)
        times = decision.promise.times
        elastic.observe(times, slower(times, 1.0), decision.plan)
        assert not elastic.refresh()
