"""Depths and widths: what compute planning chooses among (STI, section 5.2)."""

from dataclasses import dataclass

from device_agent.memory import LayerFootprint
from device_agent.planning.options import Options

_FEW_SHARDS = 16


@dataclass(frozen=True, slots=True)
class Cell:
    """A depth and a width, of one kind of layer."""

    options: Options
    layers: tuple[int, ...]
    slices: int
    execute_ms: float  # of each layer, for all texts, beside no loading
    submodel_loss: float
    least_loss: float  # at the best bitwidths
    memory: LayerFootprint  # of each layer

    @property
    def fine(self) -> bool:
        """Whether single steps of a ladder matter, because there are few shards."""
        return len(self.layers) * self.slices <= _FEW_SHARDS

    def least_loss_of(self, layers: tuple[int, ...]) -> float:
        """What some of its layers lose at the best bitwidths."""
        return float(self.options.least_loss[list(layers), self.slices - 1].sum()) if layers else 0.0
