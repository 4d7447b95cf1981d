"""Slice matrices to the int8 lattice: W[r, c] ~ scale[r] * level[r, c] (docs/quantisation.md).

8 bits store the level itself. 2 to 6 bits store an index into a codebook of int8 levels per slice matrix, found by
k-means on the row-normalised weights; the few weights far out keep their own level. The dictionary with separate
outliers follows GOBO (Zadeh et al., MICRO 2020), as STI does; that all bitwidths share one int8 lattice is ours.
"""

import numpy as np
import numpy.typing as npt

from host.codebook import LEVEL_LIMIT, Float64Array, fit_codebook, nearest_codes
from shard_store.codec import QuantizedMatrix
from shard_store.errors import CheckpointError
from shard_store.geometry import LATTICE_BITWIDTHS

Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

SHARED_RANGE = 10.0  # row deviations that the lattice spans where all bitwidths share its scales
SHARED_RANGE_LIMIT = 20.0  # the most that it spans for a row with larger weights; what lies beyond saturates
FREE_RANGE = 8.0  # the same at 2 to 6 bits where a slice owns its rows: 8-bit shards have scales of their own
OUTLIER_DEVIATIONS = 3.5
LINEAR_BITWIDTH = 8
_LEAST_SCALE = 1e-30  # a row of zeros still needs a positive, normal float32


def shared_scales(matrix: npt.ArrayLike) -> Float32Array:
    """Row scales (rows,) of a whole column-cut layer matrix (rows, all columns), for every slice and bitwidth.

    The range is a fixed number of row deviations, more only for the few rows that reach further, and for those up to a
    limit: following every row's maximum would leave low bitwidths too few levels. Raises CheckpointError if the matrix
    is not 2-D and finite.
    """
    weights = checked_matrix(matrix)
    deviation = np.sqrt(np.mean(weights**2, axis=1))  # (rows,)
    reach = np.clip(np.abs(weights).max(axis=1), SHARED_RANGE * deviation, SHARED_RANGE_LIMIT * deviation)
    return _positive(reach / LEVEL_LIMIT)


def quantize(matrix: npt.ArrayLike, bitwidth: int, scales: Float32Array | None = None) -> QuantizedMatrix:
    """Round a slice matrix (rows, columns) to the lattice at 2, 3, 4, 5, 6 or 8 bits, each weight to its nearest level.

    scales: float32 (rows,) if the rows are shared with other slices (`shared_scales`), else they are chosen here.
    Deterministic. Raises CheckpointError if the matrix or the scales are not finite, or the bitwidth is unknown.
    """
    weights = checked_matrix(matrix)
    row_scales = resolve_scales(weights, bitwidth, scales)
    positions = weights / row_scales.astype(np.float64)[:, None]  # in units of the lattice
    if bitwidth == LINEAR_BITWIDTH:
        return QuantizedMatrix.linear(to_levels(positions), row_scales)
    codebook, limit = slice_codebook(positions, bitwidth, OUTLIER_DEVIATIONS)
    return assemble(positions, np.abs(positions) > limit, codebook, row_scales)


def checked_matrix(matrix: npt.ArrayLike) -> Float64Array:
    """The matrix (rows, columns) as float64. Raises CheckpointError unless it is 2-D, not empty and finite."""
    weights = np.asarray(matrix, np.float64)
    if weights.ndim != 2 or weights.size == 0:
        raise CheckpointError(f"weights have shape {weights.shape}, must be a matrix with rows and columns")
    unusable = weights.size - int(np.count_nonzero(np.isfinite(weights)))
    if unusable:
        raise CheckpointError(
            f"{unusable} of {weights.size} weights are not finite; repair or re-export the checkpoint"
        )
    if np.abs(weights).max() > np.finfo(np.float32).max / 1e3:
        raise CheckpointError(
            f"a weight of {np.abs(weights).max():.3g} is too large; repair or re-export the checkpoint"
        )
    return weights


def resolve_scales(weights: Float64Array, bitwidth: int, scales: Float32Array | None) -> Float32Array:
    """The given row scales (rows,), checked, or those that suit the bitwidth if there are none."""
    if bitwidth not in LATTICE_BITWIDTHS:
        raise CheckpointError(f"bitwidth {bitwidth} is not on the lattice, use one of {LATTICE_BITWIDTHS}")
    if scales is None:
        if bitwidth == LINEAR_BITWIDTH:
            return _positive(np.abs(weights).max(axis=1) / LEVEL_LIMIT)
        return _deviation_scales(weights, FREE_RANGE)
    if scales.shape != weights.shape[:1] or not (np.isfinite(scales) & (scales > 0)).all():
        raise CheckpointError(f"row scales {scales.shape} must be {weights.shape[:1]}, finite and positive")
    return np.asarray(scales, np.float32)


def slice_codebook(
    positions: Float64Array, bitwidth: int, outlier_deviations: float
) -> tuple[npt.NDArray[np.int8], float]:
    """The codebook (2 ** bitwidth,) for weights in lattice units, and the magnitude beyond which they are outliers."""
    limit = outlier_deviations * float(np.sqrt(np.mean(positions**2)))
    return fit_codebook(positions[np.abs(positions) <= limit], 1 << bitwidth), limit


def assemble(
    positions: Float64Array, outliers: BoolArray, codebook: npt.NDArray[np.int8], scales: Float32Array
) -> QuantizedMatrix:
    """The matrix whose weights, in lattice units, are `positions` (rows, columns), rounded to codebook and outliers."""
    where = np.flatnonzero(outliers).astype(np.uint32)
    levels = to_levels(positions.reshape(-1)[where])
    return QuantizedMatrix(nearest_codes(positions, codebook), codebook, where, levels, scales)


def to_levels(positions: Float64Array) -> npt.NDArray[np.int8]:
    """The nearest lattice level, saturated at +-127, for each weight in lattice units, any shape."""
    return np.clip(np.rint(positions), -LEVEL_LIMIT, LEVEL_LIMIT).astype(np.int8)


def _deviation_scales(weights: Float64Array, deviations: float) -> Float32Array:
    return _positive(np.sqrt(np.mean(weights**2, axis=1)) * deviations / LEVEL_LIMIT)


def _positive(scales: Float64Array) -> Float32Array:
    return np.maximum(scales, _LEAST_SCALE).astype(np.float32)
