import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_store.codec import HEADER, IDENTITY_CODEBOOK, QuantizedMatrix, ShardView, pack_shard
from shard_store.decoder import Decoder, slice_views
from shard_store.errors import FormatError
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, LATTICE_BITWIDTHS, Cut
from shard_store.shard_layout import shard_layout
from tests.stores import empty_layer, expected_weights, random_biases, random_matrices, small_geometry

GEOMETRY = small_geometry()
ROW_CUT = [i for i, shape in enumerate(GEOMETRY.slice_matrices) if shape.cut is Cut.ROWS]


def payload(bitwidth: int, outliers: int = 3, seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    matrices = random_matrices(generator, GEOMETRY, bitwidth, outliers)
    return pack_shard(matrices, random_biases(generator, GEOMETRY), GEOMETRY, bitwidth)


def lattice(bitwidth: int) -> list[QuantizedMatrix]:
    matrices = random_matrices(np.random.default_rng(0), GEOMETRY, bitwidth)
    return [matrix for matrix in matrices if isinstance(matrix, QuantizedMatrix)]


@pytest.mark.parametrize("bitwidth", BITWIDTHS)
def test_view_gives_back_biases_and_scales(bitwidth: int) -> None:
    generator = np.random.default_rng(bitwidth)
    matrices, biases = random_matrices(generator, GEOMETRY, bitwidth), random_biases(generator, GEOMETRY)
    view = ShardView(memoryview(pack_shard(matrices, biases, GEOMETRY, bitwidth)), GEOMETRY, bitwidth)
    for index, bias in zip(ROW_CUT, biases, strict=True):
        matrix = matrices[index]
        np.testing.assert_array_equal(view.bias(index), bias)
        if isinstance(matrix, QuantizedMatrix):
            np.testing.assert_array_equal(view.scales(index), matrix.scales)
        else:
            with pytest.raises(IndexError, match="no scales"):
                view.scales(index)
    with pytest.raises(IndexError, match="output is cut by columns"):
        view.bias(3)


@pytest.mark.parametrize("bitwidth", BITWIDTHS[:-1])
def test_row_sums_add_up_what_the_decoder_gives(bitwidth: int) -> None:
    view = ShardView(memoryview(payload(bitwidth)), GEOMETRY, bitwidth)
    for index, levels in enumerate(Decoder(GEOMETRY).levels(view)):
        np.testing.assert_array_equal(view.row_sums(index), levels.astype(np.int64).sum(axis=1))


def test_an_exact_shard_has_no_row_sums() -> None:
    with pytest.raises(IndexError, match="no row sums"):
        ShardView(memoryview(payload(32)), GEOMETRY, 32).row_sums(0)


@pytest.mark.parametrize("bitwidth", BITWIDTHS)
def test_payload_is_as_long_as_the_layout_says(bitwidth: int) -> None:
    stored = payload(bitwidth, outliers=0)
    layout = shard_layout(GEOMETRY, bitwidth)
    assert len(stored) == layout.payload_bytes(0)
    packed = sum(section.nbytes for section in layout.weights)
    assert packed == layout.size * bitwidth // 8
    assert all(section.offset % 64 == 0 for section in layout.weights)


def test_linear_levels_are_their_own_codes() -> None:
    levels = np.arange(-128, 128, dtype=np.int8).reshape(4, 64)
    matrix = QuantizedMatrix.linear(levels, np.ones(4, np.float32))
    np.testing.assert_array_equal(matrix.levels(), levels)


def test_pack_refuses_what_does_not_fit() -> None:
    biases = random_biases(np.random.default_rng(0), GEOMETRY)
    good, eight = lattice(4), lattice(8)
    exact = random_matrices(np.random.default_rng(0), GEOMETRY, EXACT_BITWIDTH)
    first = good[0]

    def refused(match: str, *matrices: QuantizedMatrix, bitwidth: int = 4) -> None:
        with pytest.raises(FormatError, match=match):
            pack_shard([*matrices, *(good if bitwidth == 4 else eight)[len(matrices) :]], biases, GEOMETRY, bitwidth)

    refused("codes of query reach 16", replace(first, codes=np.full_like(first.codes, 16)))
    refused("codes of query is uint8", replace(first, codes=first.codes[1:]))
    refused("codebook of query is int8", replace(first, codebook=first.codebook[:-1]))
    refused("scales of query is float64", replace(first, scales=first.scales.astype(np.float64)))
    refused(
        "scales of query holds values that are not finite", replace(first, scales=first.scales * np.float32(np.inf))
    )
    refused("must ascend", replace(first, outlier_positions=first.outlier_positions[::-1]))
    refused("must ascend", replace(first, outlier_positions=first.outlier_positions + np.uint32(first.codes.size)))
    refused("outlier levels of query", replace(first, outlier_levels=first.outlier_levels[1:]))
    refused("identity codebook", replace(eight[0], codebook=IDENTITY_CODEBOOK[::-1]), bitwidth=8)
    for matrices, bitwidth, match in ((exact, 4, "4 bits take quantized"), (good, 32, "32 bits take float32")):
        with pytest.raises(FormatError, match=match):
            pack_shard(matrices, biases, GEOMETRY, bitwidth)
    with pytest.raises(FormatError, match="5 matrices and 4 biases"):
        pack_shard(good[1:], biases, GEOMETRY, 4)
    with pytest.raises(FormatError, match="bitwidth is 7"):
        pack_shard(good, biases, GEOMETRY, 7)


@pytest.mark.parametrize("bitwidth", BITWIDTHS)
def test_view_refuses_wrong_headers_and_lengths(bitwidth: int) -> None:
    stored = payload(bitwidth)
    other = next(width for width in BITWIDTHS if width != bitwidth)
    wrong_header = HEADER.pack(b"SHRD", bitwidth, 1 << 31, len(stored)) + stored[HEADER.size :]
    for broken, width, match in (
        (stored[:-1], bitwidth, "header says"),
        (stored + b"\0", bitwidth, "header says"),
        (stored[:15], bitwidth, "cannot hold a header"),
        (b"", bitwidth, "cannot hold a header"),
        (b"X" + stored[1:], bitwidth, "header says"),
        (stored, other, "header says"),
        (wrong_header, bitwidth, "outliers among"),
    ):
        with pytest.raises(FormatError, match=match):
            ShardView(memoryview(broken), GEOMETRY, width)


def test_view_refuses_outliers_out_of_order_or_range() -> None:
    stored = payload(4)
    layout = shard_layout(GEOMETRY, 4)
    last = layout.outliers + 4 * (3 * 6 - 1)
    for position in (0, layout.size, 0xFFFFFFFF):
        broken = bytearray(stored)
        struct.pack_into("<I", broken, last, position)
        with pytest.raises(FormatError, match="must ascend"):
            ShardView(memoryview(broken), GEOMETRY, 4)


def test_view_refuses_scales_that_are_not_finite() -> None:
    broken = bytearray(payload(2))
    struct.pack_into("<f", broken, shard_layout(GEOMETRY, 2).scales.offset, float("nan"))
    with pytest.raises(FormatError, match="not finite"):
        ShardView(memoryview(broken), GEOMETRY, 2)


PAYLOADS = {bitwidth: payload(bitwidth) for bitwidth in (2, 3, 5, 8)}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_fuzzed_payloads_never_write_out_of_bounds(data: st.DataObject) -> None:
    """Any bytes either raise FormatError or decode into the destination, and into nothing beside it."""
    bitwidth = data.draw(st.sampled_from(sorted(PAYLOADS)))
    broken = bytearray(PAYLOADS[bitwidth])
    hot = st.integers(0, 15) | st.integers(shard_layout(GEOMETRY, bitwidth).outliers, len(broken) + 8)
    for place in data.draw(st.lists(hot | st.integers(0, len(broken) - 1), max_size=6)):
        broken[min(place, len(broken) - 1)] = data.draw(st.integers(0, 255))
    stored = memoryview(broken)[: data.draw(st.sampled_from([len(broken), len(broken) - 1, len(broken) // 2]))]
    layer = empty_layer(GEOMETRY, bitwidth, slices=3)
    try:
        Decoder(GEOMETRY).decode(ShardView(stored, GEOMETRY, bitwidth), slice_views(layer, GEOMETRY, 1))
    except FormatError:
        return
    for beside in (0, 2):
        assert not any(part.any() for part in slice_views(layer, GEOMETRY, beside))


@pytest.mark.parametrize("bitwidth", LATTICE_BITWIDTHS)
def test_expected_weights_are_in_the_codebook(bitwidth: int) -> None:
    for matrix in lattice(bitwidth):
        allowed = np.union1d(matrix.codebook, matrix.outlier_levels)
        assert np.isin(expected_weights(matrix), allowed).all()
