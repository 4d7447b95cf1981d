"""Chooses the plan of least predicted loss that keeps a latency target and a memory budget.

The two stages of STI (section 5), searched together: compute planning picks depth and width, IO planning gives each
shard the bitwidth that its loading time allows. Depths and widths are visited best first by an optimistic bound, so
that few of them need IO planning at all. See docs/planning.md.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from device_agent.memory import MIB, LayerFootprint
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.planning.cell import Cell
from device_agent.planning.choice import Choice
from device_agent.planning.climb import Climb
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import Ladder, layer_steps, shard_steps
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.options import Options, options_of
from device_agent.planning.overview import Overview
from device_agent.planning.quality import predicted_loss
from device_agent.planning.schedule import Way
from device_agent.planning.search import Search
from device_agent.planning.table import Sort, table_of
from shard_store.errors import BudgetError, CostsError, PlanError
from shard_store.geometry import EXACT_BITWIDTH

_SAME_MS = 1e-9  # sums in another order differ by less, relative to the target
_SAFELY_ABOVE = 1.0 + 1e-6
_NO_MEMORY = LayerFootprint(0, 0)


class Planner:
    """Answers questions about one store on one device; keeps what only depends on those."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._sort = lru_cache(4)(self._sort_of)
        self._table = lru_cache(2)(lambda sorts: table_of(facts.profile, [self._sort(sort) for sort in sorts]))
        self._overview = lru_cache(8)(self._overview_of)

    def choose(self, ask: Ask) -> Choice:
        """The best plan, see choose_plan."""
        overview = self._overview(tuple(self._kinds(ask)), ask.sequence, ask.texts)
        target_ms = math.inf if ask.target_ms is None else ask.target_ms - _SAME_MS * max(1.0, ask.target_ms)
        found = Search(overview, ask, target_ms - self._facts.costs.pass_ms).best()
        if found:
            return self._choice(ask, self._with_fewest_agents(ask, found.plan))
        return self._nearest(ask, overview)

    def _sort_of(self, bitwidths: tuple[int, ...]) -> Sort:
        options = options_of(self._facts, bitwidths)
        steps = shard_steps(options)
        widths = range(1, self._facts.geometry.slices + 1)
        by_shard = [Ladder(self._facts, options, steps, slices) for slices in widths]
        by_layer = [Ladder(self._facts, options, layer_steps(options, slices), slices) for slices in widths]
        return Sort(options, tuple(zip(by_shard, by_layer, strict=True)))

    def _overview_of(self, kinds: tuple[tuple[int, ...], ...], sequence: int, texts: int) -> Overview:
        cells = [cell for bitwidths in kinds for cell in self._cells_of(self._sort(bitwidths).options, sequence, texts)]
        if not any(math.isfinite(cell.execute_ms) for cell in cells):
            raise PlanError(f"plan: the store has no layers for sequence {sequence}")
        return Overview(self._facts, cells, self._table(kinds))

    def _kinds(self, ask: Ask) -> Iterator[tuple[int, ...]]:
        """The allowed and measured bitwidths, those that may mix together."""
        stored = set(self._facts.shard_bytes)
        if ask.bitwidths is not None and not set(ask.bitwidths) <= stored:
            raise PlanError(f"plan: bitwidths {sorted(ask.bitwidths)} asked, the store has {sorted(stored)}")
        measured = {b for cost in self._facts.costs.prepare.values() for b in cost.shard_ms}
        allowed = sorted((stored if ask.bitwidths is None else set(ask.bitwidths)) & measured)
        if not allowed:
            raise CostsError("device costs: no allowed bitwidth was measured; calibrate again")
        if lattice := tuple(bitwidth for bitwidth in allowed if bitwidth != EXACT_BITWIDTH):
            yield lattice
        if EXACT_BITWIDTH in allowed:
            yield (EXACT_BITWIDTH,)

    def _cells_of(self, options: Options, sequence: int, texts: int) -> Iterator[Cell]:
        """All widths and depths, in the order of the table. What the store has no layers for takes forever."""
        facts = self._facts
        for slices in range(1, facts.geometry.slices + 1):
            memory = facts.layer_memory.get((options.kind, slices, sequence))
            execute_ms = math.inf
            if memory is not None:
                execute_ms = facts.costs.execute_ms(options.kind, slices, sequence, loading=False) * texts
            for layers in facts.profile.layer_choices:
                yield Cell(options, layers, slices, execute_ms, memory or _NO_MEMORY)

    def _with_fewest_agents(self, ask: Ask, plan: Plan) -> Plan:
        """Agents that win no time only cost memory."""
        if ask.loading_agents:
            return plan
        total_ms = forecast(self._facts, plan, ask.sequence, ask.texts).total_ms
        fewer = (replace(plan, loading_agents=agents) for agents in range(1, plan.loading_agents))
        same = (p for p in fewer if forecast(self._facts, p, ask.sequence, ask.texts).total_ms <= total_ms)
        return next(same, plan)

    def _choice(self, ask: Ask, plan: Plan, reason: str | None = None) -> Choice:
        facts = self._facts
        return Choice(
            plan=plan,
            predicted_ms=forecast(facts, plan, ask.sequence, ask.texts).total_ms,
            predicted_loss=predicted_loss(facts.profile, plan),
            predicted_peak_bytes=predicted_peak_bytes(facts, plan, ask.sequence, ask.texts),
            met=reason is None,
            reason=reason,
        )

    def _nearest(self, ask: Ask, overview: Overview) -> Choice:
        """The fastest plan that the budget holds, and why it is not what was asked. Raises BudgetError if none is."""
        agents, in_flight, costs = ask.loading_agents or 1, ask.layers_in_flight or 1, self._facts.costs
        way = Way(
            agents, in_flight, self._facts.prepare_lanes, costs.loading_factor, crowding_factor=costs.crowding_factor
        )
        table = overview.table
        shallow = np.flatnonzero((table.depth == 1) & np.isfinite(overview.execute_ms))
        ready = table.count[shallow]
        fits = overview.room_bytes(ask, shallow, ready, way.agents, way.in_flight) >= 0
        if not fits.any():
            held = overview.held_bytes(ask, shallow, ready, way.agents, way.in_flight)
            needed = float(held[ready == 0].min())
            raise BudgetError(
                f"memory budget {ask.budget_bytes / MIB:.1f} MiB is too small for any plan; "
                f"the smallest needs {math.ceil(needed / MIB * 10) / 10:.1f} MiB"
            )
        plans = (plan for cut in shallow[fits].tolist() for plan in _quickest(overview, cut, way))
        times = ((forecast(self._facts, plan, ask.sequence, ask.texts).total_ms, plan) for plan in plans)
        fastest_ms, fastest = min(times, key=lambda pair: pair[0])
        nearest_ms = fastest_ms * _SAFELY_ABOVE
        reason = (
            f"target {ask.target_ms:g} ms cannot be met: within {ask.budget_bytes / MIB:.1f} MiB "
            f"the fastest plan takes {math.ceil(nearest_ms * 10) / 10:.1f} ms"
        )
        return self._choice(ask, fastest, reason)


def _quickest(overview: Overview, cut: int, way: Way) -> Iterator[Plan]:
    """The lowest levels."""
    cell, count = int(overview.table.cell[cut]), int(overview.table.count[cut])
    for ladders in overview.table.ladders:
        climb = Climb(overview.facts, overview.cells[cell], ladders[cell], count)
        yield climb.plan(climb.chosen(0), way, Kept(climb.cell, count))


def choose_plan(facts: Facts, ask: Ask) -> Choice:
    """The plan of least predicted loss, then of least time, that keeps the target and the budget.

    A target that cannot be met is answered by the fastest plan, with `met` False and the reason. Raises BudgetError
    if nothing fits the budget, PlanError or CostsError for what the store lacks or the device has not measured.
    """
    return Planner(facts).choose(ask)
