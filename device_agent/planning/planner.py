"""Chooses the plan of least predicted loss that keeps a latency target and a memory budget.

The two stages of STI (section 5), searched together: compute planning picks depth and width, IO planning gives each
shard the bitwidth that its loading time allows. Depths and widths are visited best first by an optimistic bound, so
that few of them need IO planning at all. See docs/planning.md.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from device_agent.memory import MIB
from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.batch import Shape, finish_ms, loads_of
from device_agent.planning.choice import Choice
from device_agent.planning.facts import Facts
from device_agent.planning.ladder import Ladder, Steps, steps_of
from device_agent.planning.latency import forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.options import Indices, Options, options_of
from device_agent.planning.quality import predicted_loss
from shard_store.errors import BudgetError, CostsError, PlanError
from shard_store.geometry import EXACT_BITWIDTH

MAX_PLANNED_AGENTS = 4
_SPARE_IN_FLIGHT = 2  # layers in flight beyond the agents: one executes, one waits
_SAME_LOSS = 1e-12
_SAME_MS = 1e-9
_LEVELS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Cell:
    """A depth and width, of one kind of layer."""

    options: Options
    layers: tuple[int, ...]
    slices: int
    execute_ms: float
    least_loss: float


@dataclass(frozen=True, slots=True)
class _Found:
    """The best so far."""

    loss: float
    total_ms: float
    plan: Plan


@dataclass(slots=True)
class _Search:
    """One question under way."""

    facts: Facts
    ask: Ask
    limit_ms: float  # for the layers
    best: _Found | None = None
    ladders: dict[tuple[int, int], list[Ladder]] = field(default_factory=dict)


class Planner:
    """Answers questions about one store on one device; keeps what only depends on those."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._options = lru_cache(8)(self._options_of)
        self._shard_steps = lru_cache(8)(self._shard_steps_of)
        self._layer_steps = lru_cache(256)(self._layer_steps_of)

    def choose(self, ask: Ask) -> Choice:
        """The best plan, see choose_plan."""
        cells = self._cells(ask)
        target_ms = math.inf if ask.target_ms is None else ask.target_ms - _SAME_MS * max(1.0, ask.target_ms)
        search = _Search(self._facts, ask, target_ms - self._facts.costs.pass_ms)
        for cell in cells:
            if search.best and cell.least_loss > search.best.loss + _SAME_LOSS:
                break
            if cell.execute_ms * len(cell.layers) <= search.limit_ms:
                self._search_cell(search, cell)
        if search.best:
            return self._choice(ask, search.best.plan)
        return self._nearest(ask, cells)

    def _cells(self, ask: Ask) -> list[_Cell]:
        """All depths and widths that can be run, least possible loss first."""
        cells = [cell for bitwidths in self._kinds(ask) for cell in self._cells_of(ask, bitwidths)]
        if not cells:
            raise PlanError(f"plan: the store has no layers for sequence {ask.sequence}")
        return sorted(cells, key=lambda cell: (cell.least_loss, cell.execute_ms * len(cell.layers)))

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

    def _cells_of(self, ask: Ask, bitwidths: tuple[int, ...]) -> Iterator[_Cell]:
        facts, options = self._facts, self._options(bitwidths)
        least = np.cumsum(options.loss.min(axis=2), axis=1)  # (layers, slices): of the first so many slices
        for slices in range(1, facts.geometry.slices + 1):
            if (options.kind, slices, ask.sequence) not in facts.layer_memory:
                continue
            execute_ms = facts.costs.execute_ms(options.kind, slices, ask.sequence, loading=False) * ask.texts
            column = least[:, slices - 1].tolist()
            for depth, layers in enumerate(facts.profile.layer_choices, 1):
                submodel = facts.profile.submodel_loss[depth - 1][slices - 1]
                yield _Cell(options, layers, slices, execute_ms, submodel + sum(column[layer] for layer in layers))

    def _search_cell(self, search: _Search, cell: _Cell) -> None:
        """IO planning: for every way through the pipeline, the highest level that keeps the target."""
        search.ladders.clear()
        for agents, in_flight in self._ways(search.ask, cell):
            most = self._most_resident(search.ask, cell, agents, in_flight)
            for resident in range(most, -1, -1):
                shape = Shape(cell.layers, resident, cell.execute_ms, agents, in_flight)
                climbs = [self._climb(search, cell, shape, x) for x in self._ladders(search, cell, resident)]
                if not any(climbs):
                    break

    def _ways(self, ask: Ask, cell: _Cell) -> Iterator[tuple[int, int]]:
        """Loading agents and layers in flight to try."""
        depth = len(cell.layers)
        agents_tried = [ask.loading_agents] if ask.loading_agents else range(1, min(MAX_PLANNED_AGENTS, depth) + 1)
        for agents in agents_tried:
            if ask.layers_in_flight:
                yield agents, ask.layers_in_flight
                continue
            most = agents + _SPARE_IN_FLIGHT
            for in_flight in range(agents, max(agents, min(most, depth)) + 1):
                yield agents, in_flight

    def _most_resident(self, ask: Ask, cell: _Cell, agents: int, in_flight: int) -> int:
        """How many layers may stay ready to run; -1 if not even streaming fits."""
        memory = self._facts.layer_memory[cell.options.kind, cell.slices, ask.sequence]
        depth = len(cell.layers)
        base = self._facts.fixed_bytes + ask.texts * self._facts.text_bytes[ask.sequence]
        base += self._facts.agent_bytes * agents + memory.loading_bytes * min(agents, in_flight, depth)
        spare = ask.budget_bytes - base
        cap = ask.budget_bytes if ask.preload_bytes is None else ask.preload_bytes
        for resident in range(depth if ask.residency else 0, -1, -1):
            held = resident + min(in_flight, depth - resident)
            if held * memory.ready_bytes <= spare and resident * memory.ready_bytes <= cap:
                return resident
        return -1

    def _ladders(self, search: _Search, cell: _Cell, resident: int) -> list[Ladder]:
        """Shard by shard, and layer by layer (fewer reads, where each costs much)."""
        key = (0, resident)
        if key not in search.ladders:
            options, layers = cell.options, cell.layers[resident:]
            search.ladders[key] = [
                Ladder(options, self._shard_steps(options.key), layers, cell.slices),
                Ladder(options, self._layer_steps(options.key, cell.slices), layers, cell.slices),
            ]
        return search.ladders[key]

    def _climb(self, search: _Search, cell: _Cell, shape: Shape, ladder: Ladder) -> bool:
        """Find the highest level that keeps the target; False if the bound says that none is of use."""
        facts, options = self._facts, cell.options
        streamed = cell.layers[shape.resident :]
        level = self._highest(search, cell, shape, ladder)
        if level < 0:
            return False
        known = cell.least_loss - self._least(options, streamed, cell.slices)
        while level >= 0:
            if search.best and known + ladder.loss[level] > search.best.loss + _SAME_LOSS:
                return False
            start = max(0, level + 1 - _LEVELS_AT_ONCE)
            chosen = ladder.options(start, level + 1)
            ends = finish_ms(shape, loads_of(facts, options, streamed, chosen), facts.costs.loading_factor)
            kept = np.flatnonzero(ends <= search.limit_ms)
            if len(kept):
                row = int(kept[-1])
                self._take(
                    search, cell, shape, chosen[row],
                    loss=known + float(ladder.loss[start + row]), total_ms=float(ends[row]),
                )  # fmt: skip
                return start + row < ladder.top  # at the top, keeping fewer layers gains nothing
            level = start - 1
        return True

    def _highest(self, search: _Search, cell: _Cell, shape: Shape, ladder: Ladder) -> int:
        """The highest level that the loading time as a whole allows, -1 for none."""
        count = len(shape.layers) - shape.resident
        if not count:
            return 0
        left_ms = search.limit_ms - cell.execute_ms
        read_ms = ladder.transfer_ms + count * self._facts.costs.read.latency_ms
        layer_ms = self._facts.costs.prepare[cell.options.kind].layer_ms
        load_ms = ladder.load_ms + count * (layer_ms + self._facts.costs.read.latency_ms)
        fits = np.flatnonzero((read_ms + layer_ms <= left_ms) & (load_ms <= left_ms * shape.agents))
        return int(fits[-1]) if len(fits) else -1

    def _least(self, options: Options, layers: Sequence[int], slices: int) -> float:
        return float(options.loss[list(layers), :slices].min(axis=2).sum()) if layers else 0.0

    def _take(
        self, search: _Search, cell: _Cell, shape: Shape, chosen: Indices, *, loss: float, total_ms: float
    ) -> None:
        best = search.best
        if best and not (
            loss < best.loss - _SAME_LOSS or (loss <= best.loss + _SAME_LOSS and total_ms < best.total_ms)
        ):
            return
        options = cell.options
        rows = [options.best[layer, : cell.slices] for layer in cell.layers[: shape.resident]] + list(chosen)
        kept = [Residency.RESIDENT] * shape.resident + [Residency.STREAMED] * len(chosen)
        layers = tuple(
            LayerPlan(layer, tuple(options.bitwidths[row].tolist()), residency)
            for layer, row, residency in zip(cell.layers, rows, kept, strict=True)
        )
        search.best = _Found(loss, total_ms, Plan(layers, shape.agents, shape.in_flight))

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

    def _nearest(self, ask: Ask, cells: Sequence[_Cell]) -> Choice:
        """The fastest plan that the budget holds, and why it is not what was asked."""
        fastest: _Found | None = None
        smallest = [cell for cell in cells if len(cell.layers) == 1]
        needed = math.inf
        for cell in smallest:
            search = _Search(self._facts, ask, math.inf)
            agents, in_flight = next(self._ways(ask, cell))
            needed = min(needed, self._streaming_bytes(ask, cell, agents, in_flight))
            most = self._most_resident(ask, cell, agents, in_flight)
            if most < 0:
                continue
            shape = Shape(cell.layers, most, cell.execute_ms, agents, in_flight)
            for ladder in self._ladders(search, cell, most):
                chosen = ladder.options(0, 1)
                ends = finish_ms(
                    shape,
                    loads_of(self._facts, cell.options, cell.layers[most:], chosen),
                    self._facts.costs.loading_factor,
                )
                if fastest is None or float(ends[0]) < fastest.total_ms:
                    search.best = None
                    self._take(search, cell, shape, chosen[0], loss=0.0, total_ms=float(ends[0]))
                    fastest = search.best
        if fastest is None:
            raise BudgetError(
                f"memory budget {ask.budget_bytes / MIB:.1f} MiB is too small for any plan; "
                f"the smallest needs {math.ceil(needed / MIB * 10) / 10:.1f} MiB"
            )
        choice = self._choice(ask, fastest.plan)
        nearest_ms = math.ceil(choice.predicted_ms * 10) / 10
        reason = (
            f"target {ask.target_ms:g} ms cannot be met: within {ask.budget_bytes / MIB:.1f} MiB "
            f"the fastest plan takes {nearest_ms:.1f} ms"
        )
        return self._choice(ask, fastest.plan, reason)

    def _streaming_bytes(self, ask: Ask, cell: _Cell, agents: int, in_flight: int) -> int:
        layers = tuple(
            LayerPlan(layer, (int(cell.options.bitwidths[0]),) * cell.slices, Residency.STREAMED)
            for layer in cell.layers
        )
        return predicted_peak_bytes(self._facts, Plan(layers, agents, in_flight), ask.sequence, ask.texts)

    def _options_of(self, bitwidths: tuple[int, ...]) -> Options:
        return options_of(self._facts, bitwidths)

    def _shard_steps_of(self, bitwidths: tuple[int, ...]) -> Steps:
        options = self._options(bitwidths)
        return steps_of(options.load_ms, options.transfer_ms, options.loss)

    def _layer_steps_of(self, bitwidths: tuple[int, ...], slices: int) -> Steps:
        options = self._options(bitwidths)
        load_ms, transfer_ms, loss = (
            values[:, :slices].sum(axis=1, keepdims=True)
            for values in (options.load_ms, options.transfer_ms, options.loss)
        )
        return steps_of(load_ms, transfer_ms, loss)


def choose_plan(facts: Facts, ask: Ask) -> Choice:
    """The plan of least predicted loss, then of least time, that keeps the target and the budget.

    A target that cannot be met is answered by the fastest plan, with `met` False and the reason. Raises BudgetError
    if nothing fits the budget, PlanError or CostsError for what the store lacks or the device has not measured.
    """
    return Planner(facts).choose(ask)
