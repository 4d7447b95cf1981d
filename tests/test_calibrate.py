"""Rounding with error compensation."""

import numpy as np
import numpy.typing as npt
import pytest

from host.calibrate import BLOCK_COLUMNS, HessianAccumulator, HessianFactor, quantize_calibrated
from host.quantize import Float32Array, quantize, shared_scales
from shard_store.codec import QuantizedMatrix
from shard_store.errors import CheckpointError
from shard_store.geometry import LATTICE_BITWIDTHS

COLUMNS = BLOCK_COLUMNS + 32  # so that the second, shorter block counts


def correlated_inputs(tokens: int = 1500, columns: int = COLUMNS) -> Float32Array:
    random = np.random.default_rng(3)
    mixing = random.standard_normal((columns // 4, columns))
    noise = 0.3 * random.standard_normal((tokens, columns))
    return (random.standard_normal((tokens, columns // 4)) @ mixing + noise).astype(np.float32)


def factor_of(inputs: Float32Array) -> HessianFactor:
    accumulator = HessianAccumulator(inputs.shape[1])
    for part in np.array_split(inputs, 3):
        accumulator.add(part)
    return accumulator.factor()


def normal_weights(rows: int = 32, columns: int = COLUMNS) -> Float32Array:
    return (0.05 * np.random.default_rng(4).standard_normal((rows, columns))).astype(np.float32)


def output_error(matrix: QuantizedMatrix, weights: Float32Array, inputs: Float32Array) -> float:
    difference = matrix.levels() * matrix.scales[:, None] - weights
    return float(((inputs @ difference.T) ** 2).sum())


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
@pytest.mark.parametrize("shared", [False, True])
def test_calibrated_outputs_are_closer_than_plain_ones(bitwidth: int, shared: bool) -> None:
    weights, inputs = normal_weights(), correlated_inputs()
    scales = shared_scales(weights) if shared else None
    plain = output_error(quantize(weights, bitwidth, scales), weights, inputs)
    calibrated = output_error(quantize_calibrated(weights, bitwidth, factor_of(inputs), scales), weights, inputs)
    assert calibrated < 0.6 * plain


def textbook_gptq(
    weights: npt.NDArray[np.float64], hessian: npt.NDArray[np.float64], scales: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Optimal brain surgeon by columns, the inverse Hessian updated by elimination: no Cholesky, no blocks."""
    left, rest = weights.copy(), np.linalg.inv(hessian)
    for column in range(left.shape[1]):
        rounded = np.clip(np.rint(left[:, column] / scales), -127, 127) * scales
        error = (left[:, column] - rounded) / rest[0, 0]
        left[:, column:] -= np.outer(error, rest[0])
        left[:, column] = rounded
        rest = (rest - np.outer(rest[:, 0], rest[0]) / rest[0, 0])[1:, 1:]
    return left


def test_eight_bits_match_the_textbook_recursion() -> None:
    weights = normal_weights()
    inputs = correlated_inputs() * np.linspace(3, 1, COLUMNS, dtype=np.float32)  # already in order of excitation
    factor = factor_of(inputs)
    hessian = (inputs.T @ inputs).astype(np.float64)[np.ix_(factor.order, factor.order)]
    hessian += 0.01 * hessian.diagonal().mean() * np.eye(COLUMNS)
    matrix = quantize_calibrated(weights, 8, factor)
    scales = matrix.scales.astype(np.float64)
    expected = textbook_gptq(weights[:, factor.order].astype(np.float64), hessian, scales) / scales[:, None]
    agree = np.rint(expected) == matrix.levels()[:, factor.order]
    assert agree.mean() > 0.99  # a tie broken by the last bit of a sum may set a row on another path


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_without_any_input_it_is_plain_rounding_to_the_same_levels(bitwidth: int) -> None:
    weights = normal_weights()
    matrix = quantize_calibrated(weights, bitwidth, HessianAccumulator(COLUMNS).factor())
    target = weights / matrix.scales[:, None]
    offered = np.abs(target[..., None] - matrix.codebook.astype(np.float32)).min(axis=-1)
    assert (np.abs(target - matrix.levels()) <= np.maximum(offered, 0.501)).all()


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_degenerate_matrices_and_inputs_do_not_fail(bitwidth: int) -> None:
    inputs = correlated_inputs()
    inputs[:, 5] = 0
    inputs[:, 9] = inputs[:, 8]
    huge = normal_weights()
    huge[2, 3] = 1e30
    for weights in (np.zeros_like(huge), np.full_like(huge, 0.25), huge):
        for factor in (factor_of(inputs), factor_of(inputs[:1])):
            matrix = quantize_calibrated(weights, bitwidth, factor)
            assert (matrix.scales > 0).all()
            assert np.isfinite(matrix.levels() * matrix.scales[:, None]).all()
            assert matrix.codes.max() < 1 << bitwidth


@pytest.mark.parametrize("bitwidth", [2, 8])
def test_what_saturates_is_not_made_good_elsewhere(bitwidth: int) -> None:
    weights, factor = normal_weights(), factor_of(correlated_inputs())
    scales = shared_scales(weights)
    at_limit, beyond = weights.copy(), weights.copy()
    at_limit[0, 0], beyond[0, 0] = 127 * scales[0], 1000 * scales[0]
    np.testing.assert_array_equal(
        quantize_calibrated(at_limit, bitwidth, factor, scales).levels(),
        quantize_calibrated(beyond, bitwidth, factor, scales).levels(),
    )


def test_the_same_inputs_give_the_same_bytes() -> None:
    weights, inputs = normal_weights(), correlated_inputs()
    first, second = (quantize_calibrated(weights, 3, factor_of(inputs)) for _ in range(2))
    for name in ("codes", "codebook", "outlier_positions", "outlier_levels", "scales"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_the_accumulator_sums_outer_products() -> None:
    inputs = correlated_inputs(columns=16)
    factor = factor_of(inputs)
    hessian = inputs.astype(np.float64).T @ inputs.astype(np.float64)
    hessian += 0.01 * hessian.diagonal().mean() * np.eye(16)
    product = factor.factor.T @ factor.factor @ hessian[np.ix_(factor.order, factor.order)]
    np.testing.assert_allclose(product, np.eye(16), atol=1e-4)
    assert (np.diff(hessian.diagonal()[factor.order]) <= 0).all()


def test_bad_calibration_is_one_clear_line() -> None:
    weights, accumulator = normal_weights(), HessianAccumulator(COLUMNS)
    with pytest.raises(CheckpointError, match=r"inputs \(4, 7\) must be \(tokens, 160\)"):
        accumulator.add(np.ones((4, 7), np.float32))
    with pytest.raises(CheckpointError, match="7 inputs for a matrix of 160 columns"):
        quantize_calibrated(weights, 4, HessianAccumulator(7).factor())
    with pytest.raises(CheckpointError, match="must be square and finite"):
        HessianFactor.of(np.full((2, 2), np.nan))
    with pytest.raises(CheckpointError, match="not positive definite"):
        HessianFactor.of(np.diag([1.0, -1.0, 1.0]))
    weights[0, 0] = np.nan
    with pytest.raises(CheckpointError, match="not finite"):
        quantize_calibrated(weights, 4, accumulator.factor())
