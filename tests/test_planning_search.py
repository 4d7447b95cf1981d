"""What the bounds of the planner dismiss: never anything better, whatever the target and budget."""

from collections.abc import Iterator

import numpy as np
import pytest

from device_agent.memory import MIB
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.planning.cell import Cell
from device_agent.planning.climb import Climb
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import Ladder, layer_steps, shard_steps
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.options import options_of
from device_agent.planning.planner import Planner
from device_agent.planning.quality import predicted_loss
from device_agent.planning.schedule import Way
from shard_store.profile import first_layers
from tests.planning_facts import Device, random_facts

BITWIDTHS = (2, 4, 8)
LAYERS, SLICES = 5, 4  # more shards than are exchanged one by one


def every_candidate(facts: Facts) -> Iterator[Plan]:
    """Every level of both ladders, for every depth, width, agents, layers in flight, and layers that stay."""
    options = options_of(facts, BITWIDTHS)
    for slices in range(1, SLICES + 1):
        ladders = [
            Ladder(facts, options, steps, slices) for steps in (shard_steps(options), layer_steps(options, slices))
        ]
        for layers in first_layers(LAYERS):
            memory = facts.layer_memory[options.kind, slices, 64]
            cell = Cell(options, layers, slices, 0.0, memory)
            for kept in every_kept(cell):
                for ladder in ladders[: 1 if kept.preloaded else 2]:
                    climb = Climb(facts, cell, ladder, kept.count)
                    for way in every_way(facts, kept):
                        yield from (climb.plan(climb.chosen(level), way, kept) for level in range(climb.top + 1))


def every_kept(cell: Cell) -> Iterator[Kept]:
    for resident in range(len(cell.layers) + 1):
        yield Kept(cell, resident)
        for preloaded in range(1, len(cell.layers) - resident + 1):
            yield from (Kept(cell, resident, preloaded, option) for option in range(len(BITWIDTHS)))


def every_way(facts: Facts, kept: Kept) -> list[Way]:
    ways = [Way(1, 1), Way(1, 2)] if kept.preloaded else [Way(1, 1), Way(1, 2), Way(2, 2), Way(1, 3), Way(2, 3)]
    return [way for way in ways if way.in_flight <= len(kept.cell.layers)]


@pytest.mark.parametrize("seed", range(4))
def test_no_candidate_is_better_than_the_best(seed: int) -> None:
    device = Device(
        bytes_per_ms=(84e3, 500e3)[seed % 2], latency_ms=(0.1, 1.0)[seed // 2], execute_ms=2.0 + seed, layer_ms=0.5
    )
    facts = random_facts(seed, LAYERS, SLICES, BITWIDTHS, device=device)
    known = np.array([
        (predicted_loss(facts.profile, plan), forecast(facts, plan, 64).total_ms, predicted_peak_bytes(facts, plan, 64))
        for plan in every_candidate(facts)
    ])  # fmt: skip
    planner = Planner(facts)
    for budget_bytes in (8 * MIB, 12 * MIB, 16 * MIB, 30 * MIB):
        for target_ms in (12.0, 20.0, 30.0, 45.0, 70.0):
            allowed = known[(known[:, 1] <= target_ms) & (known[:, 2] <= budget_bytes), 0]
            choice = planner.choose(Ask(64, budget_bytes, target_ms))
            assert choice.met == bool(len(allowed))
            if choice.met:
                assert choice.predicted_loss <= allowed.min() + 1e-9
