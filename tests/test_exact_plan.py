"""The planner of agents against brute force, and its recurrence against a pipeline that is walked tick by tick."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from device_agent.exact_plan import LayerTimes, layer_times, plan_exact, simulate
from device_agent.memory import Footprint, LayerFootprint
from device_agent.plan import LayerPlan, Plan, Residency
from shard_store.errors import BudgetError, CostsError, PlanError
from shard_store.template import TemplateKind

FIXED, AGENT, READY, LOADING = 7, 3, 10, 4


def plan_of(kept: Sequence[bool], agents: int = 1, in_flight: int = 2, kept_as: Residency = Residency.RESIDENT) -> Plan:
    choice = [kept_as if stays else Residency.STREAMED for stays in kept]
    return Plan(tuple(LayerPlan(index, (8,), kept) for index, kept in enumerate(choice)), agents, in_flight)


def footprint_of(layers: int, ready: int = READY) -> Footprint:
    return Footprint(FIXED, 0, AGENT, (LayerFootprint(ready, LOADING),) * layers, (ready // 2,) * layers)


def brute_force(
    footprint: Footprint, budget: int, times: Sequence[LayerTimes], lanes: int
) -> Iterator[tuple[float, int]]:
    """Makespan and peak of every way that fits: all choices of layers to keep, agents and layers in flight."""
    for kept in product([False, True], repeat=len(times)):
        for agents, in_flight, kept_as in product(range(1, 5), range(1, 7), (Residency.RESIDENT, Residency.PRELOADED)):
            plan = plan_of(kept, agents, in_flight, kept_as)
            if in_flight <= max(1, len(times)) and footprint.peak_bytes(plan) <= budget:
                yield simulate(times, plan, lanes), footprint.peak_bytes(plan)


milliseconds = st.integers(0, 9).map(float)
uniform_times = st.builds(
    lambda layer, count: [layer] * count,
    st.builds(LayerTimes, milliseconds, milliseconds, milliseconds), st.integers(1, 6),
)  # fmt: skip
any_times = st.lists(st.builds(LayerTimes, milliseconds, milliseconds, milliseconds), min_size=1, max_size=5)


@given(uniform_times | any_times, st.integers(0, 120), st.integers(1, 2))
@settings(max_examples=120, deadline=None)
def test_no_other_way_within_the_cap_is_quicker(times: list[LayerTimes], budget: int, lanes: int) -> None:
    footprint = footprint_of(len(times))
    ways = list(brute_force(footprint, budget, times, lanes))
    undecided = plan_of([False] * len(times)).with_residency([None] * len(times))
    if not ways:
        with pytest.raises(BudgetError):
            plan_exact(undecided, footprint, budget, times, lanes=lanes)
        return
    found = plan_exact(undecided, footprint, budget, times, lanes=lanes)
    assert found.makespan_ms == pytest.approx(min(ways)[0])
    assert found.makespan_ms == pytest.approx(simulate(times, found.plan, lanes))
    assert found.peak_bytes == footprint.peak_bytes(found.plan) <= budget


@given(uniform_times, st.integers(30, 120), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_more_memory_is_never_slower(times: list[LayerTimes], budget: int, more: int) -> None:
    plan, footprint = plan_of([False] * len(times)), footprint_of(len(times))
    low, high = (plan_exact(plan, footprint, cap, times) for cap in (budget, budget + more))
    assert high.makespan_ms <= low.makespan_ms + 1e-9


def walked(times: Sequence[LayerTimes], plan: Plan) -> float:
    """When a pass ends, walked in ticks: loads begin in order, flash and one core are taken in order."""
    streamed = [index for index, layer in enumerate(plan.layers) if layer.residency is not Residency.RESIDENT]
    waiting, reading, preparing = list(streamed), list[list[float]](), list[list[float]]()
    ready = {index for index in range(len(times)) if index not in streamed}
    tick, layer, left, under_way = 0, 0, times[0].execute_ms, 0
    while True:
        moved = True
        while moved:  # all that takes no time at this tick
            moved = False
            agents_busy = len(reading) + len(preparing)
            if waiting and agents_busy < plan.loading_agents and under_way < plan.layers_in_flight:
                index = waiting.pop(0)
                stored = plan.layers[index].residency is Residency.PRELOADED
                if stored:
                    preparing.append([index, times[index].prepare_ms])
                else:
                    reading.append([index, times[index].read_ms])
                under_way, moved = under_way + 1, True
            if reading and reading[0][1] == 0:
                index = int(reading.pop(0)[0])
                preparing.append([index, times[index].prepare_ms])
                moved = True
            if preparing and preparing[0][1] == 0:
                ready.add(int(preparing.pop(0)[0]))
                moved = True
            if layer in ready and left == 0:
                under_way -= layer in streamed
                layer, moved = layer + 1, True
                if layer == len(times):
                    return float(tick)
                left = times[layer].execute_ms
        tick += 1
        for queue in (reading, preparing):
            if queue:
                queue[0][1] -= 1
        left -= layer in ready


@given(any_times | uniform_times, st.data())
@settings(max_examples=200, deadline=None)
def test_the_recurrence_is_the_pipeline(times: list[LayerTimes], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times)))
    kept_as = data.draw(st.sampled_from([Residency.RESIDENT, Residency.PRELOADED]))
    agents = 1 if kept_as is Residency.PRELOADED else data.draw(st.integers(1, 3))  # else some overtake in preparing
    plan = plan_of(kept, agents, data.draw(st.integers(1, 4)), kept_as)
    assert simulate(times, plan) == walked(times, plan)


def test_a_second_agent_is_hired_where_reading_and_preparing_take_turns() -> None:
    times = [LayerTimes(10, 8, 5)] * 12
    found = plan_exact(plan_of([False] * 12), footprint_of(12, ready=1000), 3100, times)
    assert found.plan.loading_agents == 2
    assert found.makespan_ms == pytest.approx(12 * 10 + 8 + 5)  # nothing but the flash


def test_more_agents_are_of_no_use_to_saturated_flash() -> None:
    found = plan_exact(plan_of([False] * 12), footprint_of(12, ready=1000), 4000, [LayerTimes(10, 0, 5)] * 12)
    assert found.plan.loading_agents == 1


def test_what_fits_as_a_whole_stays() -> None:
    found = plan_exact(plan_of([False] * 8), footprint_of(8), 10_000, [LayerTimes(10, 1, 5)] * 8)
    assert all(layer.residency is Residency.RESIDENT for layer in found.plan.layers)
    assert found.makespan_ms == 40


def test_layers_that_stay_are_spread_where_few_are_in_flight() -> None:
    """While a resident layer executes the next one loads; at the bottom all but the last would hide nothing."""
    budget = footprint_of(8).peak_bytes(plan_of([True] * 4 + [False] * 4, in_flight=1))
    found = plan_exact(plan_of([False] * 8), footprint_of(8), budget, [LayerTimes(5, 0, 5)] * 8)
    assert found.makespan_ms < simulate([LayerTimes(5, 0, 5)] * 8, plan_of([True] * 4 + [False] * 4, in_flight=1))


def test_agents_may_be_given() -> None:
    for agents in (1, 2, 3):
        found = plan_exact(plan_of([False] * 6), footprint_of(6), 60, [LayerTimes(5, 5, 5)] * 6, agents=agents)
        assert found.plan.loading_agents == agents


def test_times_of_every_layer_are_needed() -> None:
    with pytest.raises(PlanError, match="times of 1 layers given, the plan has 2"):
        plan_exact(plan_of([False] * 2), footprint_of(2), 1000, [LayerTimes(1, 1, 1)])


def test_times_come_from_the_costs_of_the_device() -> None:
    costs = DeviceCosts(
        "device", "model", ReadCost(0.5, 10), {TemplateKind.INT8: PrepareCost(1.0, {8: 2.0})},
        {TemplateKind.INT8: {64: (3.0, 4.0)}}, 2.0, 0.0,
    )  # fmt: skip
    plan = Plan((LayerPlan(0, (8, 8)),))
    assert layer_times(plan, costs, [(100, 3)], 64) == (LayerTimes(11.5, 5.0, 8.0),)
    assert layer_times(plan, costs, [(100, 3)], 64, texts=4)[0].execute_ms == 32.0
    with pytest.raises(CostsError):
        layer_times(replace(plan, layers=(LayerPlan(0, (4, 4)),)), costs, [(100, 3)], 64)
