"""A ladder over the streamed layers of a depth and width: how high it may be climbed within a time."""

from functools import cached_property

import numpy as np

from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.batch import Loads, finish_ms, least_ms, loads_of, rising, rows_of, together
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import NEAR, Ladder, Steps
from device_agent.planning.options import Floats, Indices
from device_agent.planning.schedule import Way

_PROBES = 24


class Climb:
    """Bounds and times of the levels of one ladder; the first `kept` layers of the cell are in memory."""

    def __init__(self, facts: Facts, cell: Cell, steps: Steps, kept: int) -> None:
        self.facts, self.cell, self.kept = facts, cell, kept
        self.ladder = Ladder(cell.options, steps, cell.layers[kept:], cell.slices)
        self.fine = cell.fine
        self._bounds: dict[int, Floats] = {}

    def least_loss(self, level: int) -> float:
        """Of all alternatives up to and around a level."""
        return float(self.ladder.loss[min(self.ladder.top, level + NEAR) if self.fine else level])

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

    def highest_nested(self, way: Way, limit_ms: float) -> int:
        """As highest, sharper: each layer must be loaded early enough for those after it to execute in time."""
        if way.agents not in self._bounds:
            bound = least_ms(self._least_loads, way, self.kept, self.cell.execute_ms)
            self._bounds[way.agents] = np.maximum.accumulate(bound)
        return _last(self._bounds[way.agents], limit_ms)

    def highest_below(self, level: int, way: Way, kept: Kept, limit_ms: float) -> int:
        """As highest, sharper still: by the recurrence itself, from a level down."""
        probes = np.unique(np.linspace(0, level, _PROBES).astype(np.intp))
        ends = self._finish_ms(rows_of(self._least_loads, probes), way, kept)
        fits = np.flatnonzero(ends <= limit_ms)
        if not len(fits):
            return -1
        return int(probes[fits[-1] + 1]) - 1 if fits[-1] + 1 < len(probes) else level

    def ends(self, chosen: Indices, way: Way, kept: Kept) -> Floats:
        """When alternatives end: (alternatives,). chosen: options, (alternatives, layers, slices)."""
        return self._finish_ms(loads_of(self.facts, self.cell.options, self.ladder.layers, chosen), way, kept)

    def losses(self, chosen: Indices) -> Floats:
        """Of the streamed layers of alternatives: (alternatives,)."""
        at = (self.ladder.layers[:, None], np.arange(self.cell.slices), chosen)
        losses: Floats = self.cell.options.loss[at].sum(axis=(1, 2))
        return losses

    def plan(self, chosen: Indices, way: Way, kept: Kept) -> Plan:
        """The plan of one alternative: (layers, slices)."""
        bitwidths = self.cell.options.bitwidths[chosen].tolist()
        streamed = zip(self.cell.layers[self.kept :], bitwidths, strict=True)
        layers = [*kept.plans(), *(LayerPlan(layer, tuple(row), Residency.STREAMED) for layer, row in streamed)]
        return Plan(tuple(layers), way.agents, way.in_flight)

    def _finish_ms(self, loads: Loads, way: Way, kept: Kept) -> Floats:
        if kept.preloaded:
            loads = together(kept.loads(self.facts), loads)
        return finish_ms(loads, way, kept.resident, self.cell.execute_ms)

    @cached_property
    def _least_loads(self) -> Loads:
        """Lower bounds by level: one read for each layer."""
        costs, ladder = self.facts.costs, self.ladder
        prepare_ms = costs.prepare[self.cell.options.kind].layer_ms + ladder.load_ms - ladder.transfer_ms
        return Loads(rising(costs.read.latency_ms + ladder.transfer_ms), rising(prepare_ms))

    @cached_property
    def _least_transfer_ms(self) -> Floats:
        return rising(self.ladder.total_transfer_ms)

    @cached_property
    def _least_prepare_ms(self) -> Floats:
        return rising(self.ladder.total_load_ms - self.ladder.total_transfer_ms)


def _last(rising_values: Floats, limit: float) -> int:
    """The last index of a value within the limit, -1 if none is."""
    return int(np.searchsorted(rising_values, limit, side="right")) - 1
