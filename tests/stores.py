"""Small random shards and stores for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.bitpack import CODE_PLANES
from shard_store.codec import Float32s, QuantizedMatrix
from shard_store.geometry import EXACT_BITWIDTH, Activation, Cut, Geometry, SliceMatrix


def small_geometry(
    layers: int = 2, head_width: int = 32, heads: int = 4, slices: int = 4, ffn_width: int = 40
) -> Geometry:
    return Geometry(
        layers=layers, hidden=head_width * heads, heads=heads, ffn=slices * ffn_width, slices=slices,
        activation=Activation.GELU, norm_eps=1e-12,
    )  # fmt: skip


def random_floats(generator: np.random.Generator, *shape: int) -> Float32s:
    return generator.standard_normal(shape, dtype=np.float32)


def random_matrix(generator: np.random.Generator, shape: SliceMatrix, bitwidth: int, outliers: int) -> QuantizedMatrix:
    scales = random_floats(generator, shape.rows)
    if bitwidth not in CODE_PLANES:
        return QuantizedMatrix.linear(generator.integers(-128, 128, (shape.rows, shape.columns), np.int8), scales)
    return QuantizedMatrix(
        codes=generator.integers(0, 1 << bitwidth, (shape.rows, shape.columns), np.uint8),
        codebook=generator.integers(-128, 128, 1 << bitwidth, np.int8),
        outlier_positions=np.sort(generator.choice(shape.size, min(outliers, shape.size), replace=False)).astype(
            np.uint32
        ),
        outlier_levels=generator.integers(-128, 128, min(outliers, shape.size), np.int8),
        scales=scales,
    )


def random_matrices(
    generator: np.random.Generator, geometry: Geometry, bitwidth: int, outliers: int = 3
) -> list[QuantizedMatrix | Float32s]:
    if bitwidth == EXACT_BITWIDTH:
        return [random_floats(generator, shape.rows, shape.columns) for shape in geometry.slice_matrices]
    return [random_matrix(generator, shape, bitwidth, outliers) for shape in geometry.slice_matrices]


def random_biases(generator: np.random.Generator, geometry: Geometry) -> list[Float32s]:
    return [random_floats(generator, shape.rows) for shape in geometry.slice_matrices if shape.cut is Cut.ROWS]


def expected_weights(matrix: QuantizedMatrix | Float32s) -> npt.NDArray[Any]:
    return matrix.levels() if isinstance(matrix, QuantizedMatrix) else matrix


def empty_layer(geometry: Geometry, bitwidth: int, slices: int) -> list[npt.NDArray[Any]]:
    dtype: type = np.float32 if bitwidth == EXACT_BITWIDTH else np.int8
    shapes: Sequence[tuple[int, int]] = [
        (shape.rows * slices, shape.columns) if shape.cut is Cut.ROWS else (shape.rows, shape.columns * slices)
        for shape in geometry.slice_matrices
    ]
    return [np.zeros(shape, dtype) for shape in shapes]
