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
    memory: LayerFootprint  # of each layer

    @property
    def fine(self) -> bool:
        """Whether single steps of a ladder matter, because there are few shards."""
        return has_few_shards(len(self.layers), self.slices)


def has_few_shards(depth: int, slices: int) -> bool:
    """See Cell.fine."""
    return depth * slices <= _FEW_SHARDS
