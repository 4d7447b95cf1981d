"""One layer's weights to shards: cut into slices, each rounded to every bitwidth."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from host.calibrate import HessianFactor, quantize_calibrated
from host.quantize import quantize, shared_scales
from host.weights import Float32Array, LayerWeights, Linear
from shard_store.codec import QuantizedMatrix, pack_shard
from shard_store.geometry import EXACT_BITWIDTH, Cut, Geometry, ShardKey, SliceMatrix


class Hessians(Protocol):
    """What each slice matrix saw on calibration texts."""

    def of(self, matrix: str, index: int) -> HessianFactor:
        """The factor for a slice's matrix."""
        ...


@dataclass(frozen=True, slots=True)
class LayerEncoder:
    """Encodes the shards of one layer. `hessians` switches error compensation on."""

    layer: int
    weights: LayerWeights
    geometry: Geometry
    hessians: Hessians | None

    def shared_scales(self) -> dict[str, Float32Array]:
        """Row scales of the column-cut matrices, which every slice and every lattice bitwidth share: (rows,)."""
        cut = (matrix for matrix in self.geometry.slice_matrices if matrix.cut is Cut.COLUMNS)
        return {matrix.name: shared_scales(self._linear(matrix).weight) for matrix in cut}

    def shards(self, bitwidth: int, scales: dict[str, Float32Array]) -> Iterator[tuple[ShardKey, bytes]]:
        """The payloads of all slices at one bitwidth, in order."""
        for index in range(self.geometry.slices):
            parts = [self._part(matrix, index) for matrix in self.geometry.slice_matrices]
            biases = [
                self._linear(matrix).bias[index * matrix.rows : (index + 1) * matrix.rows]
                for matrix in self.geometry.slice_matrices
                if matrix.cut is Cut.ROWS
            ]
            if bitwidth == EXACT_BITWIDTH:
                payload = pack_shard(parts, biases, self.geometry, bitwidth)
            else:
                rounded = [
                    self._round(matrix.name, index, part, bitwidth, scales.get(matrix.name))
                    for matrix, part in zip(self.geometry.slice_matrices, parts, strict=True)
                ]
                payload = pack_shard(rounded, biases, self.geometry, bitwidth)
            yield ShardKey(self.layer, index, bitwidth), payload

    def _round(
        self, matrix: str, index: int, part: Float32Array, bitwidth: int, scales: Float32Array | None
    ) -> QuantizedMatrix:
        if self.hessians is None:
            return quantize(part, bitwidth, scales)
        return quantize_calibrated(part, bitwidth, self.hessians.of(matrix, index), scales)

    def _linear(self, matrix: SliceMatrix) -> Linear:
        linear = getattr(self.weights, matrix.name)
        assert isinstance(linear, Linear)
        return linear

    def _part(self, matrix: SliceMatrix, index: int) -> Float32Array:
        weight = self._linear(matrix).weight
        if matrix.cut is Cut.ROWS:
            return np.ascontiguousarray(weight[index * matrix.rows : (index + 1) * matrix.rows])
        return np.ascontiguousarray(weight[:, index * matrix.columns : (index + 1) * matrix.columns])
