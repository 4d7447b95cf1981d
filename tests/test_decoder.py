import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_store.codec import ShardView, pack_shard
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, LATTICE_BITWIDTHS, Geometry
from tests.stores import empty_layer, expected_weights, random_biases, random_matrices, small_geometry


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    slices = draw(st.integers(3, 16))
    heads = slices * draw(st.sampled_from([1, 2]))
    return small_geometry(1, draw(st.sampled_from([32, 64])), heads, slices, draw(st.integers(1, 97)))


@settings(max_examples=25, deadline=None)
@given(geometries(), st.lists(st.sampled_from(BITWIDTHS[:-1]), min_size=2, max_size=3), st.integers(0, 2**32))
def test_slices_of_mixed_bitwidths_join_into_layer_matrices(
    geometry: Geometry, bitwidths: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    layer = empty_layer(geometry, bitwidths[0], len(bitwidths))
    expected = empty_layer(geometry, bitwidths[0], len(bitwidths))
    decoder = Decoder(geometry)
    for index, bitwidth in enumerate(bitwidths):
        matrices = random_matrices(generator, geometry, bitwidth, outliers=int(generator.integers(0, 20)))
        stored = pack_shard(matrices, random_biases(generator, geometry), geometry, bitwidth)
        decoder.decode(ShardView(memoryview(stored), geometry, bitwidth), slice_views(layer, geometry, index))
        for part, matrix in zip(slice_views(expected, geometry, index), matrices, strict=True):
            part[:] = expected_weights(matrix)
    for decoded, wanted in zip(layer, expected, strict=True):
        np.testing.assert_array_equal(decoded, wanted)


@pytest.mark.parametrize("bitwidth", BITWIDTHS)
def test_matrices_of_several_chunks(bitwidth: int) -> None:
    geometry = small_geometry(1, 64, 8, 4, 600)  # ffn_up: 307200 weights, 76800 or 153600 groups
    generator = np.random.default_rng(bitwidth)
    matrices = random_matrices(generator, geometry, bitwidth, outliers=1000)
    stored = pack_shard(matrices, random_biases(generator, geometry), geometry, bitwidth)
    layer = empty_layer(geometry, bitwidth, 1)
    decoder = Decoder(geometry)
    scratch_bytes = decoder.scratch_bytes
    decoder.decode(ShardView(memoryview(stored), geometry, bitwidth), slice_views(layer, geometry, 0))
    for decoded, matrix in zip(layer, matrices, strict=True):
        np.testing.assert_array_equal(decoded, expected_weights(matrix))
    assert decoder.scratch_bytes == scratch_bytes


@pytest.mark.parametrize("bitwidth", BITWIDTHS)
def test_unaligned_payloads_and_destinations(bitwidth: int) -> None:
    geometry = small_geometry()
    generator = np.random.default_rng(bitwidth)
    matrices = random_matrices(generator, geometry, bitwidth)
    stored = pack_shard(matrices, random_biases(generator, geometry), geometry, bitwidth)
    shifted = memoryview(b"x" + stored)[1:]
    itemsize = 4 if bitwidth == EXACT_BITWIDTH else 1
    dtype = np.float32 if bitwidth == EXACT_BITWIDTH else np.int8
    destinations = [
        np.zeros(shape.size * itemsize + 1, np.uint8)[1:].view(dtype).reshape(shape.rows, shape.columns)
        for shape in geometry.slice_matrices
    ]
    Decoder(geometry).decode(ShardView(shifted, geometry, bitwidth), destinations)
    for decoded, matrix in zip(destinations, matrices, strict=True):
        np.testing.assert_array_equal(decoded, expected_weights(matrix))


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_levels_need_no_destinations(bitwidth: int) -> None:
    geometry = small_geometry()
    generator = np.random.default_rng(bitwidth)
    decoder = Decoder(geometry)
    for _ in range(2):
        matrices = random_matrices(generator, geometry, bitwidth)
        stored = pack_shard(matrices, random_biases(generator, geometry), geometry, bitwidth)
        for levels, matrix in zip(
            decoder.levels(ShardView(memoryview(stored), geometry, bitwidth)), matrices, strict=True
        ):
            assert levels.flags.c_contiguous
            np.testing.assert_array_equal(levels, expected_weights(matrix))


def test_destinations_of_another_shape_or_type_are_refused() -> None:
    geometry = small_geometry()
    generator = np.random.default_rng(0)
    stored = pack_shard(random_matrices(generator, geometry, 4), random_biases(generator, geometry), geometry, 4)
    view = ShardView(memoryview(stored), geometry, 4)
    exact = empty_layer(geometry, EXACT_BITWIDTH, 1)
    wide = empty_layer(geometry, 4, 2)
    for destinations in (exact, wide):
        with pytest.raises(ValueError, match="query: destination is"):
            Decoder(geometry).decode(view, destinations)
