"""How near the planner comes to the best there is: all plans of tiny questions, and the optimum of small ones."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, product

import pytest

from benchmarks.planner import gap, question
from device_agent.memory import MIB
from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.facts import Facts
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.planner import choose_plan
from device_agent.planning.quality import predicted_loss
from tests.planning_facts import Device, random_facts

FROM_THE_BOTTOM = (Residency.RESIDENT, Residency.PRELOADED, Residency.STREAMED)
LARGEST_GAP = 0.01  # of predicted quality, exp(-loss)


def every_plan(facts: Facts) -> Iterator[Plan]:
    for depth in range(1, facts.geometry.layers + 1):
        for slices in range(1, facts.geometry.slices + 1):
            for bitwidths in product(product(sorted(facts.shard_bytes), repeat=slices), repeat=depth):
                for stay in combinations_with_replacement(FROM_THE_BOTTOM, depth):
                    layers = tuple(LayerPlan(k, *pair) for k, pair in enumerate(zip(bitwidths, stay, strict=True)))
                    for agents, in_flight in ((1, 1), (1, 2), (2, 2)):
                        yield Plan(layers, agents, in_flight)


@pytest.mark.parametrize("seed", range(6))
def test_no_plan_of_a_tiny_store_is_much_better(seed: int) -> None:
    device = Device(loading_factor=1.4, execute_ms=(2.0, 20.0)[seed % 2], crowding_factor=(1.0, 1.7, 3.0)[seed % 3])
    facts = random_facts(seed, 2, 2, (2, 8), device=device)
    plans = [
        (predicted_loss(facts.profile, plan), forecast(facts, plan, 64).total_ms, predicted_peak_bytes(facts, plan, 64))
        for plan in every_plan(facts)
    ]
    for budget_bytes in (8 * MIB, 11 * MIB, 16 * MIB):
        for target_ms in (5.1, 15.1, 25.1, 40.1, 80.1):
            allowed = [loss for loss, ms, peak in plans if ms <= target_ms and peak <= budget_bytes]
            choice = choose_plan(facts, Ask(64, budget_bytes, target_ms))
            assert choice.met == bool(allowed)
            if allowed:
                assert choice.predicted_loss >= min(allowed) - 1e-9
                assert 1.0 - math.exp(min(allowed) - choice.predicted_loss) <= LARGEST_GAP


def test_the_optimum_of_small_questions_is_near() -> None:
    pairs = [pair for seed in range(40) if (pair := gap(*question(seed))) is not None]
    assert len(pairs) > 30
    for found, least in pairs:
        assert found >= least - 1e-6
        assert 1.0 - math.exp(least - found) <= LARGEST_GAP


def test_layers_as_stored_stay_where_ready_ones_do_not_fit() -> None:
    facts = random_facts(3, 6, 4, (2, 3, 4, 8), device=Device(execute_ms=1.0))
    ask = Ask(64, 12 * MIB, 40.0)
    choice = choose_plan(facts, ask)
    assert Residency.PRELOADED in {layer.residency for layer in choice.plan.layers}
    assert choice.predicted_loss < choose_plan(facts, replace(ask, preload_bytes=0)).predicted_loss
