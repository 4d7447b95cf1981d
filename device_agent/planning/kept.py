"""What of a cell's layers stays in memory between runs: some ready, then some as stored, from the bottom up."""

from dataclasses import dataclass

import numpy as np

from device_agent.plan import LayerPlan, Residency
from device_agent.planning.batch import Loads
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts


@dataclass(frozen=True, slots=True)
class Kept:
    """So many layers ready to run, at their best, and so many as stored, at one bitwidth. The others are streamed."""

    cell: Cell
    resident: int
    preloaded: int = 0
    option: int = 0  # of the preloaded

    @property
    def count(self) -> int:
        """Layers that need no read."""
        return self.resident + self.preloaded

    def loads(self, facts: Facts) -> Loads:
        """Loads of the preloaded layers: nothing to read. (1, preloaded)."""
        cost = facts.costs.prepare[self.cell.options.kind]
        prepare_ms = cost.ms((int(self.cell.options.bitwidths[self.option]),) * self.cell.slices)
        return Loads(np.zeros((1, self.preloaded)), np.full((1, self.preloaded), prepare_ms))

    def plans(self) -> list[LayerPlan]:
        """Of the layers that stay."""
        options, slices = self.cell.options, self.cell.slices
        best = [options.bitwidths[options.best[layer, :slices]].tolist() for layer in self.cell.layers[: self.resident]]
        stored = [[int(options.bitwidths[self.option])] * slices] * self.preloaded
        kept = [Residency.RESIDENT] * self.resident + [Residency.PRELOADED] * self.preloaded
        layers = zip(self.cell.layers, best + stored, kept, strict=False)
        return [LayerPlan(layer, tuple(bitwidths), where) for layer, bitwidths, where in layers]
