"""Plain rounding to the lattice."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from host.quantize import SHARED_RANGE, Float32Array, quantize, shared_scales
from shard_store.codec import QuantizedMatrix
from shard_store.errors import CheckpointError
from shard_store.geometry import LATTICE_BITWIDTHS

CODEBOOK_BITWIDTHS = LATTICE_BITWIDTHS[:-1]
MATRICES = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.one_of(
        st.floats(-2.0, 2.0, width=32), st.just(0.0), st.floats(-(2.0**100), 2.0**100, width=32)
    ),
)  # fmt: skip


def decoded(matrix: QuantizedMatrix) -> npt.NDArray[np.float64]:
    return matrix.levels() * matrix.scales.astype(np.float64)[:, None]


def normal_matrix(rows: int = 48, columns: int = 160) -> Float32Array:
    random = np.random.default_rng(7)
    return (random.standard_normal((rows, columns)) * random.uniform(0.01, 0.1, (rows, 1))).astype(np.float32)


def squared_error(weights: Float32Array, bitwidth: int, scales: Float32Array | None = None) -> float:
    return float(((decoded(quantize(weights, bitwidth, scales)) - weights) ** 2).sum())


@pytest.mark.parametrize("shared", [False, True])
def test_error_shrinks_with_every_bitwidth(shared: bool) -> None:
    weights = normal_matrix()
    errors = [
        squared_error(weights, bitwidth, shared_scales(weights) if shared else None) for bitwidth in LATTICE_BITWIDTHS
    ]
    assert all(later < 0.5 * earlier for earlier, later in pairwise(errors[:4]))
    assert errors == sorted(errors, reverse=True)


def test_two_bits_come_near_the_best_quantiser_of_a_normal_source() -> None:
    weights = np.random.default_rng(1).standard_normal((256, 512)).astype(np.float32)
    assert squared_error(weights, 2) / weights.size < 0.1175 * 1.01  # Max, 1960: 0.1175 with four levels


@given(MATRICES)
@settings(max_examples=100, deadline=None)
def test_eight_bits_are_within_half_a_step(weights: Float32Array) -> None:
    matrix = quantize(weights, 8)
    steps = matrix.scales.astype(np.float64)[:, None]
    assert (np.abs(decoded(matrix) - weights) <= steps * (0.5 + 1e-4)).all()
    assert (matrix.scales <= np.maximum(np.abs(weights).max(axis=1) / 127, 2e-30) * (1 + 1e-6)).all()


@given(MATRICES, st.sampled_from(LATTICE_BITWIDTHS), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_finite_matrix_gives_a_valid_result(weights: Float32Array, bitwidth: int, shared: bool) -> None:
    matrix = quantize(weights, bitwidth, shared_scales(weights) if shared else None)
    assert matrix.codes.shape == weights.shape
    assert matrix.scales.dtype == np.float32
    assert (matrix.scales >= np.finfo(np.float32).tiny).all()
    assert np.isfinite(decoded(matrix)).all()
    assert matrix.codes.max() < len(matrix.codebook) == 1 << bitwidth
    assert (np.diff(matrix.outlier_positions.astype(np.int64)) > 0).all()
    assert (matrix.levels().astype(int) >= -127).all() or bitwidth < 8


@pytest.mark.parametrize("bitwidth", CODEBOOK_BITWIDTHS)
def test_outliers_are_exact_to_the_lattice(bitwidth: int) -> None:
    weights = normal_matrix()
    scales = shared_scales(weights)
    deviation = scales[5] * 127 / SHARED_RANGE
    weights[5, [3, 77]] = 6.3 * deviation, -9.1 * deviation
    matrix = quantize(weights, bitwidth, scales)
    assert {5 * 160 + 3, 5 * 160 + 77} <= set(matrix.outlier_positions.tolist())
    error = np.abs(decoded(matrix) - weights).reshape(-1)[matrix.outlier_positions]
    assert (error <= 0.5001 * scales[matrix.outlier_positions // 160]).all()
    assert 0 < matrix.outlier_positions.size < 0.01 * weights.size


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_a_zero_matrix_decodes_to_zero(bitwidth: int) -> None:
    weights = np.zeros((4, 8), np.float32)
    for scales in (None, shared_scales(weights)):
        assert (np.abs(decoded(quantize(weights, bitwidth, scales))) < 1e-25).all()


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_constant_rows_are_kept(bitwidth: int) -> None:
    weights = np.repeat(np.array([[0.5], [-0.25], [3.0]], np.float32), 16, axis=1)
    np.testing.assert_allclose(decoded(quantize(weights, bitwidth)), weights, rtol=0.04)


def test_one_huge_weight_leaves_the_other_rows_alone() -> None:
    weights = normal_matrix()
    before = (decoded(quantize(weights, 4)) - weights)[1:]
    weights[0, 0] = 1e30
    after = (decoded(quantize(weights, 4)) - weights)[1:]
    assert (after**2).sum() < 1.1 * (before**2).sum()


@given(MATRICES, st.sampled_from(LATTICE_BITWIDTHS))
@settings(max_examples=30, deadline=None)
def test_the_same_weights_give_the_same_bytes(weights: Float32Array, bitwidth: int) -> None:
    first, second = quantize(weights, bitwidth), quantize(weights.copy(order="F"), bitwidth)
    for name in ("codes", "codebook", "outlier_positions", "outlier_levels", "scales"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weights = normal_matrix()
    weights[1, 2] = bad
    with pytest.raises(CheckpointError, match=r"^1 of 7680 weights are not finite"):
        quantize(weights, 4)
    with pytest.raises(CheckpointError, match=r"^1 of 7680 weights are not finite"):
        shared_scales(weights)


@pytest.mark.parametrize(
    ("weights", "bitwidth", "scales", "message"),
    [
        (np.ones((2, 3)), 7, None, "bitwidth 7"),
        (np.ones((2, 3)), 32, None, "bitwidth 32"),
        (np.ones(3), 4, None, r"shape \(3,\)"),
        (np.ones((0, 3)), 4, None, r"shape \(0, 3\)"),
        (np.full((1, 2), 1e38), 4, None, "too large"),
        (np.ones((2, 3)), 4, np.ones(3, np.float32), r"row scales \(3,\)"),
        (np.ones((2, 3)), 4, np.array([1, 0], np.float32), "positive"),
        (np.ones((2, 3)), 4, np.array([1, np.nan], np.float32), "finite"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    weights: npt.NDArray[np.float64], bitwidth: int, scales: Float32Array | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        quantize(weights, bitwidth, scales)
    assert "\n" not in str(caught.value)
