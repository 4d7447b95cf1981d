"""A ladder over the streamed layers of a depth and width: what its levels take and lose."""

import numpy as np

from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.batch import Loads, loads_of
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import NEAR, Ladder
from device_agent.planning.options import Floats, Indices
from device_agent.planning.schedule import Way


class Climb:
    """The levels of one ladder, counted for the streamed layers alone; the first `count` of the cell are in memory."""

    def __init__(self, facts: Facts, cell: Cell, ladder: Ladder, count: int) -> None:
        self.facts, self.cell, self.ladder, self.count = facts, cell, ladder, count
        self.layers = np.array(cell.layers[count:], np.intp)
        self.levels = ladder.levels_of(self.layers)  # (own levels,): of the ladder over all layers

    @property
    def top(self) -> int:
        """The highest of its own levels."""
        return len(self.levels) - 1

    def losses(self, start: int, stop: int) -> Floats:
        """Of the streamed layers at levels start to stop - 1, never rising: (levels,)."""
        return self.ladder.loss_at(self.levels[start:stop], self.layers)

    def least_losses(self, start: int, stop: int) -> Floats:
        """The same with all alternatives around each level."""
        if not self.cell.fine:
            return self.losses(start, stop)
        around = np.minimum(np.arange(start, stop) + NEAR, self.top)
        return self.ladder.loss_at(self.levels[around], self.layers)

    def loads(self, start: int, stop: int) -> Loads:
        """Of the streamed layers at levels start to stop - 1."""
        return self.ladder.loads_at(self.levels[start:stop], self.layers)

    def chosen(self, level: int) -> Indices:
        """The options of a level: (layers, slices)."""
        chosen: Indices = self.ladder.chosen[self.ladder.taken[self.levels[level], self.layers], self.layers]
        return chosen

    def near(self, level: int) -> Indices:
        """Alternatives around a level: options (alternatives, layers, slices)."""
        return self.ladder.near(self.levels, level, self.layers)

    def loads_of(self, chosen: Indices) -> Loads:
        """Of alternatives: options (alternatives, layers, slices)."""
        return loads_of(self.facts, self.cell.options, self.layers, chosen)

    def losses_of(self, chosen: Indices) -> Floats:
        """Of the streamed layers of alternatives: (alternatives,)."""
        at = (self.layers[:, None], np.arange(self.cell.slices), chosen)
        losses: Floats = self.cell.options.loss[at].sum(axis=(1, 2))
        return losses

    def plan(self, chosen: Indices, way: Way, kept: Kept) -> Plan:
        """The plan of one alternative: options (layers, slices)."""
        bitwidths = self.cell.options.bitwidths[chosen].tolist()
        streamed = zip(self.cell.layers[self.count :], bitwidths, strict=True)
        layers = [*kept.plans(), *(LayerPlan(layer, tuple(row), Residency.STREAMED) for layer, row in streamed)]
        return Plan(tuple(layers), way.agents, way.in_flight)
