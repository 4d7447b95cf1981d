"""One question under way: IO planning for one depth and width after the other (STI, section 5.3, extended).

A candidate is a depth and width, a way through the pipeline, how many layers stay ready or as stored, and a level of a
ladder. Target and budget only decide which candidates are allowed, never which there are, so a larger one never
answers worse. Bounds leave most of them unseen, and never the best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.batch import Loads, finish_ms, least_ms, loads_of, rising, rows_of
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.ladder import FINE_TOP, Ladder, Steps
from device_agent.planning.options import Floats, Indices
from device_agent.planning.schedule import Way

MOST_AGENTS = 3  # one reads, one prepares, one waits for either
MOST_IN_FLIGHT = 4
SAME_LOSS = 1e-12
_LEVELS_AT_ONCE = 64
_PROBES = 24


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate that keeps target and budget."""

    loss: float
    total_ms: float  # of the layers
    plan: Plan

    def beats(self, other: "Found | None") -> bool:
        """Less loss, or as little in less time."""
        if other is None or self.loss < other.loss - SAME_LOSS:
            return True
        return self.loss <= other.loss + SAME_LOSS and self.total_ms < other.total_ms


class Climb:
    """A ladder over the streamed layers of a cell, the others being in memory."""

    def __init__(self, facts: Facts, cell: Cell, steps: Steps, kept: int) -> None:
        self.facts, self.cell, self.kept = facts, cell, kept
        self.ladder = Ladder(cell.options, steps, cell.layers[kept:], cell.slices)
        self._bounds: dict[int, Floats] = {}

    @cached_property
    def _least_loads(self) -> Loads:
        """Lower bounds by level: one read for each layer."""
        costs = self.facts.costs
        ladder = self.ladder
        prepare_ms = costs.prepare[self.cell.options.kind].layer_ms + ladder.load_ms - ladder.transfer_ms
        return Loads(rising(costs.read.latency_ms + ladder.transfer_ms), rising(prepare_ms))

    def highest(self, way: Way, limit_ms: float) -> int:
        """No level above this one keeps the limit, by its sums; -1 for none."""
        ladder, count, costs, execute_ms = self.ladder, len(self.ladder.layers), self.facts.costs, self.cell.execute_ms
        latency_ms, layer_ms = costs.read.latency_ms, costs.prepare[self.cell.options.kind].layer_ms
        if not count:
            return ladder.top
        loading_ms = way.agents * (limit_ms - execute_ms)  # of all agents, if only the last execution is not hidden
        loading_ms = min(loading_ms, way.in_flight * limit_ms - count * execute_ms)
        if way.loading_factor > 1.0:
            executing_ms = execute_ms * len(self.cell.layers)
            slowed_ms = (limit_ms - executing_ms) / (1.0 - 1.0 / way.loading_factor)
            loading_ms = min(loading_ms, way.agents * slowed_ms)
        level = _last(ladder.total_load_ms, loading_ms - count * (latency_ms + layer_ms))
        if way.agents > 1:
            level = min(level, _last(self._least_transfer_ms, limit_ms - execute_ms - layer_ms - count * latency_ms))
            preparing_ms = way.lanes * (limit_ms - execute_ms) - latency_ms
            level = min(level, _last(self._least_prepare_ms, preparing_ms - count * layer_ms))
        return level

    @cached_property
    def _least_transfer_ms(self) -> Floats:
        return rising(self.ladder.total_transfer_ms)

    @cached_property
    def _least_prepare_ms(self) -> Floats:
        return rising(self.ladder.total_load_ms - self.ladder.total_transfer_ms)

    def highest_nested(self, way: Way, limit_ms: float) -> int:
        """As highest, sharper: each layer must be loaded early enough for those after it to execute in time."""
        if way.agents not in self._bounds:
            bound = least_ms(self._least_loads, way, self.kept, self.cell.execute_ms)
            self._bounds[way.agents] = np.maximum.accumulate(bound)
        return _last(self._bounds[way.agents], limit_ms)

    def highest_of(self, way: Way, level: int, limit_ms: float) -> int:
        """As highest, sharper: by the recurrence itself, from `level` down."""
        probes = np.unique(np.linspace(0, level, _PROBES).astype(np.intp))
        ends = finish_ms(rows_of(self._least_loads, probes), way, self.kept, self.cell.execute_ms)
        fits = np.flatnonzero(ends <= limit_ms)
        if not len(fits):
            return -1
        return int(probes[fits[-1] + 1]) - 1 if fits[-1] + 1 < len(probes) else level

    def ends(self, chosen: Indices, way: Way) -> Floats:
        """When alternatives end: (alternatives,). chosen: options, (alternatives, layers, slices)."""
        loads = loads_of(self.facts, self.cell.options, self.ladder.layers, chosen)
        return finish_ms(loads, way, self.kept, self.cell.execute_ms)

    def losses(self, chosen: Indices) -> Floats:
        """Of alternatives: (alternatives,)."""
        at = (self.ladder.layers[:, None], np.arange(self.cell.slices), chosen)
        losses: Floats = self.cell.options.loss[at].sum(axis=(1, 2))
        return losses


class Search:
    """The best candidate so far, and how to look for better ones."""

    def __init__(self, facts: Facts, ask: Ask, limit_ms: float) -> None:
        self.facts, self.ask, self.limit_ms = facts, ask, limit_ms
        self.best: Found | None = None

    def hopeless(self, loss: float) -> bool:
        """No candidate that loses at least so much is of interest."""
        return self.best is not None and loss > self.best.loss + SAME_LOSS

    def explore(self, cell: Cell, all_steps: tuple[Steps, ...]) -> None:
        """Look for better candidates of a depth and width."""
        if self.hopeless(cell.least_loss) or cell.execute_ms * len(cell.layers) > self.limit_ms:
            return
        ways = list(self._ways(cell))
        if not ways:
            return
        for kept in range(max(most for _, most in ways), -1, -1):
            climbs = [Climb(self.facts, cell, steps, kept) for steps in all_steps]
            allowed = {way.in_flight: way for way, most in ways if kept <= most}.values()  # the most agents of each
            useful = [self._climb(climb, way) for way in allowed for climb in climbs]
            if not any(useful):
                return  # with fewer layers in memory there is even less to gain

    def _ways(self, cell: Cell) -> Iterator[tuple[Way, int]]:
        """Agents and layers in flight to try, each with the most layers that may stay ready."""
        ask, depth = self.ask, len(cell.layers)
        in_flights = [ask.layers_in_flight] if ask.layers_in_flight else range(1, min(MOST_IN_FLIGHT, depth) + 1)
        for in_flight in in_flights:
            most_agents = min(MOST_AGENTS, in_flight)
            for agents in [ask.loading_agents] if ask.loading_agents else range(1, most_agents + 1):
                most = self.most_resident(cell, agents, in_flight)
                if most >= 0:
                    factor = self.facts.costs.loading_factor
                    yield Way(agents, in_flight, self.facts.prepare_lanes, factor), most

    def most_resident(self, cell: Cell, agents: int, in_flight: int) -> int:
        """How many layers may stay ready to run; -1 if not even streaming fits."""
        depth, ready_bytes = len(cell.layers), cell.memory.ready_bytes
        spare = self.ask.budget_bytes - self.base_bytes(cell, agents, in_flight)
        cap = self.ask.budget_bytes if self.ask.preload_bytes is None else self.ask.preload_bytes
        for resident in range(depth if self.ask.residency else 0, -1, -1):
            held = resident + min(in_flight, depth - resident)
            if held * ready_bytes <= spare and resident * ready_bytes <= cap:
                return resident
        return -1

    def base_bytes(self, cell: Cell, agents: int, in_flight: int) -> int:
        """What is held whatever the residency."""
        base = self.facts.fixed_bytes + self.ask.texts * self.facts.text_bytes[self.ask.sequence]
        return base + self.facts.agent_bytes * agents + cell.memory.loading_bytes * min(agents, in_flight)

    def _climb(self, climb: Climb, way: Way) -> bool:
        """Take the best levels that keep the target; False if fewer layers in memory cannot do better."""
        ladder, cell = climb.ladder, climb.cell
        known = cell.submodel_loss + cell.least_loss_of(cell.layers[: climb.kept])
        for bound in (climb.highest, climb.highest_nested):
            level = bound(way, self.limit_ms)
            if level < 0 or self.hopeless(known + ladder.loss[level]):
                return False
        sharp = False
        while level >= 0:
            start = max(0, level + 1 - _LEVELS_AT_ONCE)
            chosen = ladder.at_levels(start, level + 1)
            ends = climb.ends(chosen, way)
            kept = np.flatnonzero(ends <= self.limit_ms)
            if len(kept):
                row = int(kept[-1])
                self.take(climb, way, chosen[row], known + float(ladder.loss[start + row]), float(ends[row]))
                if start + row < ladder.top and ladder.top <= FINE_TOP:
                    self._refine(climb, way, start + row, known)
                return start + row < ladder.top
            level = start - 1
            if not sharp and level >= 0:
                level, sharp = climb.highest_of(way, level, self.limit_ms), True
            if level >= 0 and self.hopeless(known + ladder.loss[level]):
                return True
        return True

    def _refine(self, climb: Climb, way: Way, level: int, known: float) -> None:
        """Take the best of the alternatives around the highest level."""
        chosen = climb.ladder.near(level)
        losses, ends = climb.losses(chosen), climb.ends(chosen, way)
        losses[ends > self.limit_ms] = np.inf
        least = losses.min()
        best = int(np.where(losses <= least + SAME_LOSS, ends, np.inf).argmin())
        self.take(climb, way, chosen[best], known + float(losses[best]), float(ends[best]))

    def take(self, climb: Climb, way: Way, chosen: Indices, loss: float, total_ms: float) -> None:
        """Remember a candidate if it is the best. chosen: (layers, slices)."""
        found = Found(loss, total_ms, climb_plan(climb, way, chosen)) if not self.hopeless(loss) else None
        if found and found.beats(self.best):
            self.best = found


def climb_plan(climb: Climb, way: Way, chosen: Indices) -> Plan:
    """The plan of a candidate."""
    cell, options = climb.cell, climb.cell.options
    rows = [*(options.best[layer, : cell.slices] for layer in cell.layers[: climb.kept]), *chosen]
    residency = [Residency.RESIDENT] * climb.kept + [Residency.STREAMED] * len(chosen)
    layers = tuple(
        LayerPlan(layer, tuple(options.bitwidths[row].tolist()), where)
        for layer, row, where in zip(cell.layers, rows, residency, strict=True)
    )
    return Plan(layers, way.agents, way.in_flight)


def _last(rising_values: Floats, limit: float) -> int:
    """The last index of a value within the limit, -1 if none is."""
    return int(np.searchsorted(rising_values, limit, side="right")) - 1
