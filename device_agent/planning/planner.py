"""Chooses the plan of least predicted loss that keeps a latency target and a memory budget.

The two stages of STI (section 5), searched together: compute planning picks depth and width, IO planning gives each
shard the bitwidth that its loading time allows. Depths and widths are visited best first by an optimistic bound, so
that few of them need IO planning at all. See docs/planning.md.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from device_agent.memory import MIB
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.planning.cell import Cell
from device_agent.planning.choice import Choice
from device_agent.planning.climb import Climb
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import Steps, layer_steps, shard_steps
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.options import options_of
from device_agent.planning.overview import Overview
from device_agent.planning.quality import predicted_loss
from device_agent.planning.schedule import Way
from device_agent.planning.search import Found, Search
from device_agent.planning.table import Table, table_of
from shard_store.errors import BudgetError, CostsError, PlanError
from shard_store.geometry import EXACT_BITWIDTH

_SAME_MS = 1e-9  # sums in another order differ by less, relative to the target
_SAFELY_ABOVE = 1.0 + 1e-6


class Planner:
    """Answers questions about one store on one device; keeps what only depends on those."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._options = lru_cache(8)(lambda bitwidths: options_of(facts, bitwidths))
        self._shard_steps = lru_cache(8)(lambda bitwidths: shard_steps(self._options(bitwidths)))
        self._layer_steps = lru_cache(256)(lambda bitwidths, m: layer_steps(self._options(bitwidths), m))
        self._tables: dict[tuple[tuple[int, ...], int, int], Table] = {}
        self._overview = lru_cache(8)(self._overview_of)

    def choose(self, ask: Ask) -> Choice:
        """The best plan, see choose_plan."""
        overview = self._overview(tuple(self._kinds(ask)), ask.sequence, ask.texts)
        target_ms = math.inf if ask.target_ms is None else ask.target_ms - _SAME_MS * max(1.0, ask.target_ms)
        search = Search(self._facts, ask, target_ms - self._facts.costs.pass_ms)
        bounds = overview.bounds(search.room)
        order = np.lexsort((overview.computing_ms, bounds)).tolist()
        for explore in (search.explore, search.explore_preloaded) if ask.residency else (search.explore,):
            for index in order:
                if search.hopeless(bounds[index]) or math.isinf(bounds[index]):
                    break
                explore(overview.cells[index], overview.tables[index], self._steps(overview.cells[index]))
        if search.best:
            return self._choice(ask, self._with_fewest_agents(ask, search.best.plan))
        return self._nearest(ask, overview.cells)

    def _overview_of(self, kinds: Sequence[tuple[int, ...]], sequence: int, texts: int) -> Overview:
        cells = [cell for bitwidths in kinds for cell in self._cells_of(bitwidths, sequence, texts)]
        if not cells:
            raise PlanError(f"plan: the store has no layers for sequence {sequence}")
        return Overview(self._facts, cells, [self._table(cell) for cell in cells])

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

    def _cells_of(self, bitwidths: tuple[int, ...], sequence: int, texts: int) -> Iterator[Cell]:
        facts, options = self._facts, self._options(bitwidths)
        for slices in range(1, facts.geometry.slices + 1):
            memory = facts.layer_memory.get((options.kind, slices, sequence))
            if memory is None:
                continue
            execute_ms = facts.costs.execute_ms(options.kind, slices, sequence, loading=False) * texts
            for depth, layers in enumerate(facts.profile.layer_choices, 1):
                submodel = facts.profile.submodel_loss[depth - 1][slices - 1]
                least = submodel + float(options.least_loss[list(layers), slices - 1].sum())
                yield Cell(options, layers, slices, execute_ms, submodel, least, memory)

    def _table(self, cell: Cell) -> Table:
        key = (cell.options.key, len(cell.layers), cell.slices)
        if key not in self._tables:
            self._tables[key] = table_of(cell, self._shard_steps(cell.options.key))
        return self._tables[key]

    def _steps(self, cell: Cell) -> tuple[Steps, ...]:
        return self._shard_steps(cell.options.key), self._layer_steps(cell.options.key, cell.slices)

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

    def _nearest(self, ask: Ask, cells: Sequence[Cell]) -> Choice:
        """The fastest plan that the budget holds, and why it is not what was asked. Raises BudgetError if none is."""
        agents, in_flight = ask.loading_agents or 1, ask.layers_in_flight or 1
        costs = self._facts.costs
        way = Way(
            agents, in_flight, self._facts.prepare_lanes, costs.loading_factor, crowding_factor=costs.crowding_factor
        )
        shallow = [cell for cell in cells if len(cell.layers) == 1]
        search = Search(self._facts, ask, math.inf)
        fastest = min(
            (found for cell in shallow for found in self._quickest(search, cell, way)), key=_by_time, default=None
        )
        if fastest is None:
            needed = min(search.streaming_bytes(cell, way) for cell in shallow)
            raise BudgetError(
                f"memory budget {ask.budget_bytes / MIB:.1f} MiB is too small for any plan; "
                f"the smallest needs {math.ceil(needed / MIB * 10) / 10:.1f} MiB"
            )
        nearest_ms = forecast(self._facts, fastest.plan, ask.sequence, ask.texts).total_ms * _SAFELY_ABOVE
        reason = (
            f"target {ask.target_ms:g} ms cannot be met: within {ask.budget_bytes / MIB:.1f} MiB "
            f"the fastest plan takes {math.ceil(nearest_ms * 10) / 10:.1f} ms"
        )
        return self._choice(ask, fastest.plan, reason)

    def _quickest(self, search: Search, cell: Cell, way: Way) -> Iterator[Found]:
        resident = search.most_resident(cell, way)
        if resident >= 0:
            kept = Kept(cell, resident)
            for steps in self._steps(cell):
                climb = Climb(self._facts, cell, steps, resident)
                chosen = climb.ladder.at_levels(0, 1)
                yield Found(0.0, float(climb.ends(chosen, way, kept)[0]), climb.plan(chosen[0], way, kept))


def _by_time(found: Found) -> float:
    return found.total_ms


def choose_plan(facts: Facts, ask: Ask) -> Choice:
    """The plan of least predicted loss, then of least time, that keeps the target and the budget.

    A target that cannot be met is answered by the fastest plan, with `met` False and the reason. Raises BudgetError
    if nothing fits the budget, PlanError or CostsError for what the store lacks or the device has not measured.
    """
    return Planner(facts).choose(ask)
