"""A layer's weights to shards, and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from host.calibrate import HessianAccumulator, HessianFactor
from host.encode import LayerEncoder
from host.quantize import shared_scales
from host.weights import LayerWeights
from shard_store.codec import ShardView
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, LATTICE_BITWIDTHS, Activation, Cut, Geometry, ShardKey
from tests.layers import random_layer
from tests.stores import empty_layer

GEOMETRY = Geometry(1, 64, 4, 96, 2, Activation.GELU, 1e-12)
LAYER = 5


def encoder_of(weights: LayerWeights, calibrated: bool = False) -> LayerEncoder:
    return LayerEncoder(LAYER, weights, GEOMETRY, NotingHessians([]) if calibrated else None)


@dataclass(frozen=True, slots=True)
class NotingHessians:
    """Uncorrelated inputs for every matrix; notes which were asked for."""

    asked: list[tuple[str, int]]

    def of(self, matrix: str, index: int) -> HessianFactor:
        self.asked.append((matrix, index))
        columns = next(one.columns for one in GEOMETRY.slice_matrices if one.name == matrix)
        accumulator = HessianAccumulator(columns)
        accumulator.add(np.random.default_rng(columns).standard_normal((500, columns), dtype=np.float32))
        return accumulator.factor()


def decoded(encoder: LayerEncoder, bits: int) -> list[npt.NDArray[np.float64]]:
    """The six matrices of the whole layer."""
    scales = encoder.shared_scales()
    layer = empty_layer(GEOMETRY, bits, GEOMETRY.slices)
    factors = [np.ones((len(matrix), 1)) for matrix in layer]
    for key, payload in encoder.shards(bits, scales):
        view = ShardView(memoryview(payload), GEOMETRY, bits)
        Decoder(GEOMETRY).decode(view, slice_views(layer, GEOMETRY, key.slice))
        for number, matrix in enumerate(GEOMETRY.slice_matrices if bits != EXACT_BITWIDTH else ()):
            if matrix.cut is Cut.ROWS:
                rows = slice(key.slice * matrix.rows, (key.slice + 1) * matrix.rows)
                factors[number][rows, 0] = view.scales(number)
            else:
                factors[number][:, 0] = scales[matrix.name]
    return [matrix * factor for matrix, factor in zip(layer, factors, strict=True)]


def error_share(encoder: LayerEncoder, bits: int) -> float:
    """The largest error of a matrix, as a share of its energy."""
    shares = []
    for matrix, found in zip(GEOMETRY.slice_matrices, decoded(encoder, bits), strict=True):
        weight = getattr(encoder.weights, matrix.name).weight
        shares.append(float(((found - weight) ** 2).sum() / (weight**2).sum()))
    return max(shares)


def test_every_bitwidth_is_closer_than_the_one_below() -> None:
    encoder = encoder_of(random_layer(GEOMETRY))
    shares = [error_share(encoder, bits) for bits in BITWIDTHS]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] < 0.15
    assert shares[-1] == 0.0


@pytest.mark.parametrize("bits", BITWIDTHS)
def test_shards_come_by_slice_with_their_biases(bits: int) -> None:
    weights = random_layer(GEOMETRY)
    encoder = encoder_of(weights)
    shards = list(encoder.shards(bits, encoder.shared_scales()))
    assert [key for key, _payload in shards] == [ShardKey(LAYER, index, bits) for index in range(GEOMETRY.slices)]
    for key, payload in shards:
        view = ShardView(memoryview(payload), GEOMETRY, bits)
        for number, matrix in enumerate(GEOMETRY.slice_matrices):
            if matrix.cut is Cut.ROWS:
                rows = slice(key.slice * matrix.rows, (key.slice + 1) * matrix.rows)
                np.testing.assert_array_equal(view.bias(number), getattr(weights, matrix.name).bias[rows])


def test_column_cut_matrices_share_scales() -> None:
    weights = random_layer(GEOMETRY)
    scales = encoder_of(weights).shared_scales()
    assert sorted(scales) == ["ffn_down", "output"]
    np.testing.assert_array_equal(scales["output"], shared_scales(weights.output.weight))


@pytest.mark.parametrize("bits", LATTICE_BITWIDTHS)
def test_a_slice_does_not_depend_on_the_bits_of_another(bits: int) -> None:
    """Only the shared scales join slices; row-cut matrices of one slice do not see the others."""
    weights, other = random_layer(GEOMETRY), random_layer(GEOMETRY, seed=1)
    scales = encoder_of(weights).shared_scales()
    rows, neurons = GEOMETRY.slice_attention, GEOMETRY.slice_ffn
    for matrix, kept in (("query", rows), ("key", rows), ("value", rows), ("ffn_up", neurons)):
        getattr(other, matrix).weight[:kept] = getattr(weights, matrix).weight[:kept]
        getattr(other, matrix).bias[:kept] = getattr(weights, matrix).bias[:kept]
    other.output.weight[:, :rows] = weights.output.weight[:, :rows]
    other.ffn_down.weight[:, :neurons] = weights.ffn_down.weight[:, :neurons]
    (first, second), (same, different) = (
        [payload for _key, payload in encoder_of(one).shards(bits, scales)] for one in (weights, other)
    )
    assert first == same
    assert second != different


def test_calibration_asks_for_every_matrix_of_every_slice_but_not_for_exact_shards() -> None:
    hessians = NotingHessians([])
    encoder = LayerEncoder(LAYER, random_layer(GEOMETRY), GEOMETRY, hessians)
    list(encoder.shards(EXACT_BITWIDTH, {}))
    assert not hessians.asked
    list(encoder.shards(4, encoder.shared_scales()))
    names = [matrix.name for matrix in GEOMETRY.slice_matrices]
    assert hessians.asked == [(name, index) for index in range(GEOMETRY.slices) for name in names]


def test_calibration_changes_the_codes() -> None:
    weights = random_layer(GEOMETRY)
    plain, calibrated = encoder_of(weights), encoder_of(weights, calibrated=True)
    scales = plain.shared_scales()
    assert dict(plain.shards(3, scales)) != dict(calibrated.shards(3, scales))
    assert error_share(calibrated, 3) < 0.1
