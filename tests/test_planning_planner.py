"""The planner keeps every budget, never answers worse to a larger one, and names the nearest that can be met."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.memory import MIB
from device_agent.plan import Residency
from device_agent.planning.ask import Ask
from device_agent.planning.facts import Facts
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.planner import Planner, choose_plan
from device_agent.planning.quality import predicted_loss
from shard_store.errors import BudgetError, PlanError
from tests.planning_facts import Device, random_facts

SMALL_LOSS = 1e-9


@st.composite
def stores(draw: st.DrawFn) -> Facts:
    bitwidths = tuple(sorted(draw(st.sets(st.sampled_from((2, 3, 4, 6, 8, 32)), min_size=1, max_size=4))))
    device = Device(
        draw(st.sampled_from((20_000.0, 84_000.0, 500_000.0))), draw(st.sampled_from((0.0, 0.1, 1.0))),
        draw(st.sampled_from((0.0, 3.0))), draw(st.sampled_from((1.0, 20.0))), draw(st.sampled_from((1.0, 1.5))),
        crowding_factor=draw(st.sampled_from((1.0, 2.5))),
    )  # fmt: skip
    return random_facts(
        draw(st.integers(0, 10_000)), draw(st.integers(1, 5)), draw(st.integers(1, 4)), bitwidths, device=device,
        read_bytes=draw(st.sampled_from((1 << 19, 2 << 20))),
    )  # fmt: skip


def asks() -> st.SearchStrategy[Ask]:
    return st.builds(
        Ask, st.just(64), st.integers(4 * MIB, 60 * MIB), st.none() | st.floats(1.0, 300.0), st.integers(1, 3),
        st.booleans(), st.none() | st.integers(0, 8 * MIB), st.none(), st.none() | st.integers(1, 3),
        st.none() | st.integers(1, 4),
    )  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(stores(), asks())
def test_every_budget_holds(facts: Facts, ask: Ask) -> None:
    try:
        choice = choose_plan(facts, ask)
    except BudgetError as error:
        assert "the smallest needs" in str(error)
        return
    plan = choice.plan
    assert choice.predicted_ms == forecast(facts, plan, ask.sequence, ask.texts).total_ms
    assert choice.predicted_loss == predicted_loss(facts.profile, plan)
    assert choice.predicted_peak_bytes == predicted_peak_bytes(facts, plan, ask.sequence, ask.texts)
    assert choice.predicted_peak_bytes <= ask.budget_bytes
    assert choice.met == (ask.target_ms is None or choice.predicted_ms <= ask.target_ms)
    assert (choice.reason is None) == choice.met
    order = [Residency.RESIDENT, Residency.PRELOADED, Residency.STREAMED]
    kept = [order.index(layer.residency) for layer in plan.layers if layer.residency]
    assert len(kept) == len(plan.layers)
    assert kept == sorted(kept)
    assert ask.residency or set(kept) == {2}
    assert ask.loading_agents in (None, plan.loading_agents)
    assert ask.layers_in_flight in (None, plan.layers_in_flight)


@settings(deadline=None, max_examples=80)
@given(stores(), asks(), st.floats(1.0, 1.5), st.integers(0, 20 * MIB))
def test_more_time_or_memory_never_loses_quality(facts: Facts, ask: Ask, longer: float, more_bytes: int) -> None:
    target_ms = None if ask.target_ms is None else ask.target_ms * longer
    planner = Planner(facts)
    try:
        little = planner.choose(ask)
    except BudgetError:
        return
    much = planner.choose(replace(ask, target_ms=target_ms, budget_bytes=ask.budget_bytes + more_bytes))
    if little.met:
        assert much.met
        assert much.predicted_loss <= little.predicted_loss + SMALL_LOSS


@settings(deadline=None, max_examples=50)
@given(stores(), asks())
def test_the_nearest_target_can_be_met(facts: Facts, ask: Ask) -> None:
    try:
        choice = choose_plan(facts, replace(ask, target_ms=0.5))
    except BudgetError:
        return
    assert not choice.met
    assert choice.reason
    assert "target 0.5 ms cannot be met" in choice.reason
    assert choose_plan(facts, replace(ask, target_ms=math.ceil(choice.predicted_ms * 10) / 10 + 0.1)).met


def test_the_nearest_budget_can_be_met() -> None:
    facts = random_facts(1, 3, 2, (2, 8))
    with pytest.raises(BudgetError, match=r"memory budget 1\.0 MiB .* the smallest needs \d\.\d MiB") as raised:
        choose_plan(facts, Ask(64, MIB))
    nearest = float(str(raised.value).split()[-2])
    assert choose_plan(facts, Ask(64, math.ceil(nearest * MIB))).met


def test_what_the_store_lacks_is_refused() -> None:
    facts = random_facts(1, 3, 2, (2, 8))
    with pytest.raises(PlanError, match=r"bitwidths \[3\] asked, the store has \[2, 8\]"):
        choose_plan(facts, Ask(64, 64 * MIB, bitwidths=(3,)))
    with pytest.raises(PlanError, match="no layers for sequence 128"):
        choose_plan(facts, Ask(128, 64 * MIB))


@pytest.mark.parametrize("change", [{"target_ms": 0.0}, {"texts": 0}, {"loading_agents": 99}, {"layers_in_flight": 0}])
def test_an_impossible_question_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(PlanError, match="must be"):
        replace(Ask(64, MIB), **change)  # type: ignore[arg-type]
