"""What reading, preparing and executing cost on one device: measured there, used to predict runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shard_store.errors import CostsError
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.template import TemplateKind

MOST_CROWDING = 16.0


@dataclass(frozen=True, slots=True)
class ReadCost:
    """Time of reads, one after another: each takes latency_ms and its bytes at the device's rate."""

    latency_ms: float
    bytes_per_ms: float

    def ms(self, nbytes: int, reads: int = 1) -> float:
        """Time of that many reads of so many bytes in all."""
        return reads * self.latency_ms + nbytes / self.bytes_per_ms


@dataclass(frozen=True, slots=True)
class PrepareCost:
    """Time from stored shards to a layer that runs: once for the layer, and for each shard at its bitwidth."""

    layer_ms: float
    shard_ms: Mapping[int, float]  # by bitwidth

    def ms(self, bitwidths: Sequence[int]) -> float:
        """Time of a layer with these bitwidths."""
        return self.layer_ms + sum(self.shard_ms[bitwidth] for bitwidth in bitwidths)


@dataclass(frozen=True, slots=True)
class DeviceCosts:
    """All times are of one thread of the agent that measured. Raises CostsError for what cannot be a cost."""

    device: str  # machine, processor, runtime and threads: elsewhere other costs hold
    model: str  # digest of the sizes of the model that they were measured with
    read: ReadCost
    prepare: Mapping[TemplateKind, PrepareCost]
    execute: Mapping[TemplateKind, Mapping[int, tuple[float, ...]]]  # by kind, sequence: [m-1], ms for one text
    loading_factor: float  # how many times longer execution takes while a loading agent works
    pass_ms: float  # of every answer, whatever its layers: tokenising, embedding, the head, the report
    crowding_factor: float = 1.0  # how many times longer preparing takes while other agents work, too

    def __post_init__(self) -> None:
        numbers = [self.read.latency_ms, self.pass_ms, *self._layer_times()]
        if not all(math.isfinite(value) and value >= 0 for value in numbers):
            raise CostsError("device costs: every time must be a finite number of at least 0")
        if not (math.isfinite(self.read.bytes_per_ms) and self.read.bytes_per_ms > 0):
            raise CostsError(f"device costs: bytes_per_ms is {self.read.bytes_per_ms}, must be above 0")
        if not 1 <= self.loading_factor <= 100:
            raise CostsError(f"device costs: loading_factor is {self.loading_factor}, must be 1 to 100")
        if not 1 <= self.crowding_factor <= MOST_CROWDING:
            raise CostsError(f"device costs: crowding_factor is {self.crowding_factor}, must be 1 to {MOST_CROWDING:g}")

    def _layer_times(self) -> list[float]:
        prepared = [ms for cost in self.prepare.values() for ms in (cost.layer_ms, *cost.shard_ms.values())]
        return prepared + [ms for by_sequence in self.execute.values() for row in by_sequence.values() for ms in row]

    def prepare_ms(self, bitwidths: Sequence[int]) -> float:
        """Time to prepare a layer. Raises CostsError for a bitwidth that was not measured."""
        kind = kind_of(bitwidths)
        try:
            return self.prepare[kind].ms(bitwidths)
        except KeyError:
            raise CostsError(f"device costs: {min(bitwidths)} bits were not measured; calibrate again") from None

    def execute_ms(self, kind: TemplateKind, slices: int, sequence: int, *, loading: bool) -> float:
        """Time to run a layer over one text, beside a loading agent or alone. Raises CostsError if not measured."""
        row = self.execute.get(kind, {}).get(sequence, ())
        if not 1 <= slices <= len(row):
            raise CostsError(
                f"device costs: {kind.value} layers of {slices} slices, sequence {sequence}, were not measured; "
                "calibrate again"
            )
        return row[slices - 1] * (self.loading_factor if loading else 1.0)


def kind_of(bitwidths: Sequence[int]) -> TemplateKind:
    """The kind of layer that shards of these bitwidths make."""
    return TemplateKind.FLOAT32 if EXACT_BITWIDTH in bitwidths else TemplateKind.INT8
