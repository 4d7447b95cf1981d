import pytest

from device_agent.drift import Drift, Factors, corrected
from device_agent.phases import PhaseTimes
from shard_store.template import TemplateKind
from tests.costs import small_costs

EXPECTED = PhaseTimes(read_ms=10.0, prepare_ms=4.0, execute_ms=8.0, total_ms=20.0, outside_ms=2.0)


def slower(read: float = 1.0, prepare: float = 1.0, execute: float = 1.0, outside: float = 1.0) -> PhaseTimes:
    return PhaseTimes(
        read_ms=EXPECTED.read_ms * read, prepare_ms=EXPECTED.prepare_ms * prepare,
        execute_ms=EXPECTED.execute_ms * execute, outside_ms=EXPECTED.outside_ms * outside, total_ms=18.0,
    )  # fmt: skip


def after(*runs: PhaseTimes, agents: int = 1) -> Drift:
    drift = Drift()
    for run in runs:
        drift.observe(EXPECTED, run, agents)
    return drift


def test_what_comes_as_expected_changes_nothing() -> None:
    drift = after(*[slower(1.02, 0.98, 1.0)] * 20)
    assert corrected(small_costs(), drift.factors).read.latency_ms == pytest.approx(0.25, rel=0.05)


def test_slower_flash_is_followed_within_a_few_runs() -> None:
    assert after(*[slower(read=3.0)] * 2).factors.read == 1.0
    drift = after(*[slower(read=3.0)] * 3)
    costs = corrected(small_costs(), drift.factors)
    assert costs.read.ms(1000) == pytest.approx(3 * small_costs().read.ms(1000), rel=0.05)
    assert costs.prepare == small_costs().prepare and costs.execute == small_costs().execute
    drift.use(drift.factors)
    for _ in range(5):
        drift.observe(PhaseTimes(30.0, 4.0, 8.0, total_ms=40.0, outside_ms=2.0), slower(read=3.0))
    assert drift.factors.read == pytest.approx(3.0)


def test_faster_is_followed_as_slower_is() -> None:
    for factor in (0.5, 2.0):
        assert after(*[slower(execute=factor)] * 3).factors.execute == factor


def test_what_an_answer_takes_besides_its_pass_is_followed_too() -> None:
    drift = after(*[slower(outside=2.0)] * 3)
    assert corrected(small_costs(), drift.factors).pass_ms == pytest.approx(2 * small_costs().pass_ms)
    assert corrected(small_costs(), drift.factors).read == small_costs().read


def test_one_way_of_preparing_says_nothing_of_the_other() -> None:
    drift = Drift()
    for _ in range(5):
        drift.observe(EXPECTED, slower(prepare=2.0), unpacked_share=0.9)
    assert drift.factors == Factors(unpack=2.0)
    costs, before = corrected(small_costs(), drift.factors), small_costs()
    for bits, factor in ((2, 2.0), (8, 1.0)):
        found, expected = (one.prepare[TemplateKind.INT8].shard_ms[bits] for one in (costs, before))
        assert found == pytest.approx(factor * expected)
    for _ in range(5):
        drift.observe(EXPECTED, slower(prepare=0.5), unpacked_share=0.5)
    assert (drift.factors.prepare, drift.factors.unpack) == (0.5, 0.5), "a mixed pass says the same of both"


def test_hiccups_are_not_believed() -> None:
    assert after(*[slower(prepare=1000.0)] * 2).factors.prepare == 1.0


def test_of_several_agents_only_the_whole_pass_tells() -> None:
    late = PhaseTimes(read_ms=90.0, prepare_ms=90.0, execute_ms=8.0, total_ms=27.0, outside_ms=2.0)
    drift = after(late, late, late, agents=2)
    assert drift.factors == Factors(crowding=drift.factors.crowding)
    assert corrected(small_costs(), drift.factors).crowding_factor == pytest.approx(1.5**2)
    early = PhaseTimes(execute_ms=8.0, total_ms=9.0, outside_ms=2.0)
    assert corrected(small_costs(), after(early, early, early, agents=2).factors).crowding_factor == 1.0


def test_phases_that_take_no_time_say_nothing() -> None:
    drift = Drift()
    for _ in range(5):
        drift.observe(PhaseTimes(read_ms=0.01), PhaseTimes(read_ms=5.0, prepare_ms=3.0))
        drift.observe(EXPECTED, PhaseTimes())
    assert drift.factors == Factors()
