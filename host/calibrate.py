"""Rounding with error compensation: GPTQ (Frantar et al., "GPTQ", ICLR 2023; arXiv 2210.17323) on the int8 lattice.

Columns are rounded one after another, and the error of each is made good in the columns that follow, as far as the
inputs that the matrix sees on sample texts allow. Compensation stays inside one slice matrix, so shards remain
independent of each other's bitwidth (docs/quantisation.md).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from host.codebook import LEVEL_LIMIT, Float64Array, nearest_codes
from host.quantize import (
    LINEAR_BITWIDTH,
    BoolArray,
    Float32Array,
    assemble,
    checked_matrix,
    resolve_scales,
    slice_codebook,
    to_levels,
)
from shard_store.codec import QuantizedMatrix
from shard_store.errors import CheckpointError

DAMPING = 0.01  # of the mean diagonal, added to it; the paper's value
OUTLIER_DEVIATIONS = 3.0
BLOCK_COLUMNS = 128  # columns between two updates of the remaining matrix, as in the paper


@dataclass(frozen=True, slots=True)
class HessianFactor:
    """What compensation needs to know of a matrix's inputs; matrices that see the same inputs share it.

    order: (columns,) in which the columns are rounded, the most excited first; factor: float64 (columns, columns),
    the upper Cholesky factor of the inverse Hessian in that order.
    """

    order: npt.NDArray[np.intp]
    factor: Float64Array

    @classmethod
    def of(cls, hessian: npt.ArrayLike, damping: float = DAMPING) -> "HessianFactor":
        """Prepare a symmetric Hessian (columns, columns): the sum over inputs x of x x^T, any factor in front.

        Raises CheckpointError if it is not square, finite and positive semi-definite.
        """
        full = np.array(hessian, np.float64)
        if full.ndim != 2 or full.shape[0] != full.shape[1] or not np.isfinite(full).all():
            raise CheckpointError(
                f"calibration: Hessian {full.shape} must be square and finite, check the sample texts"
            )
        diagonal = full.diagonal()
        order = np.argsort(-diagonal, kind="stable")
        # Without any input every weight is worth the same: the damping alone then makes a multiple of the identity.
        full[np.diag_indices_from(full)] += damping * (diagonal.mean() or 1.0)
        try:
            inverse = np.linalg.inv(full[np.ix_(order, order)])
            lower = np.linalg.cholesky((inverse + inverse.T) / 2)
        except np.linalg.LinAlgError as error:
            raise CheckpointError(f"calibration: Hessian {full.shape} is not positive definite: {error}") from error
        return cls(order, np.ascontiguousarray(lower.T))


class HessianAccumulator:
    """Sums x x^T over the inputs x that a slice matrix sees."""

    def __init__(self, columns: int) -> None:
        self._sum: Float64Array = np.zeros((columns, columns))

    def add(self, inputs: npt.NDArray[np.float32]) -> None:
        """Add inputs (tokens, columns)."""
        if inputs.ndim != 2 or inputs.shape[1] != self._sum.shape[0]:
            raise CheckpointError(f"calibration: inputs {inputs.shape} must be (tokens, {self._sum.shape[0]})")
        self._sum += inputs.T @ inputs

    def factor(self, damping: float = DAMPING) -> HessianFactor:
        """Prepare what was summed so far."""
        return HessianFactor.of(self._sum, damping)


def quantize_calibrated(
    matrix: npt.ArrayLike, bitwidth: int, factor: HessianFactor, scales: Float32Array | None = None
) -> QuantizedMatrix:
    """Round a slice matrix (rows, columns) to the lattice so that its *outputs* on the sample inputs change least.

    As `quantize`, with the factor (columns, columns) of the slice's own inputs; the result may be up to the lattice's
    resolution away from the nearest level in each weight. Deterministic. Raises CheckpointError as `quantize` does.
    """
    weights = checked_matrix(matrix)
    if factor.order.size != weights.shape[1]:
        raise CheckpointError(f"calibration: {factor.order.size} inputs for a matrix of {weights.shape[1]} columns")
    row_scales = resolve_scales(weights, bitwidth, scales)
    # What saturates stays lost: made good in other columns, it did more harm than good (docs/quantisation.md).
    positions = np.clip(weights / row_scales.astype(np.float64)[:, None], -LEVEL_LIMIT, LEVEL_LIMIT)
    rounding = _Rounding.of(positions, bitwidth)
    compensated = np.empty_like(positions)
    compensated[:, factor.order] = _compensate(positions[:, factor.order], rounding, factor.factor)
    if rounding.codebook is None:
        return QuantizedMatrix.linear(to_levels(compensated), row_scales)
    return assemble(compensated, rounding.outliers(compensated), rounding.codebook, row_scales)


@dataclass(frozen=True, slots=True)
class _Rounding:
    codebook: npt.NDArray[np.int8] | None  # None at 8 bits: every level is its own code
    limit: float  # in lattice units: outliers lie beyond it

    @classmethod
    def of(cls, positions: Float64Array, bitwidth: int) -> "_Rounding":
        if bitwidth == LINEAR_BITWIDTH:
            return cls(None, float(LEVEL_LIMIT))
        return cls(*slice_codebook(positions, bitwidth, OUTLIER_DEVIATIONS))

    def outliers(self, positions: Float64Array) -> BoolArray:
        return np.abs(positions) > self.limit

    def levels(self, positions: Float64Array) -> npt.NDArray[np.int8]:
        if self.codebook is None:
            return to_levels(positions)
        levels = self.codebook[nearest_codes(positions, self.codebook)]
        return np.where(self.outliers(positions), to_levels(positions), levels)


def _compensate(positions: Float64Array, rounding: _Rounding, factor: Float64Array) -> Float64Array:
    """Each weight (rows, columns), in lattice units and the factor's order, as it stands when its turn comes."""
    waiting = np.ascontiguousarray(positions.T)  # (columns, rows)
    for start in range(0, len(waiting), BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, len(waiting))
        errors = np.empty((end - start, waiting.shape[1]))  # (block columns, rows)
        for column in range(start, end):
            current = waiting[column]
            error = (current - rounding.levels(current)) / factor[column, column]
            waiting[column + 1 : end] -= factor[column, column + 1 : end, None] * error
            errors[column - start] = error
        waiting[end:] -= factor[start:end, end:].T @ errors
    return waiting.T
