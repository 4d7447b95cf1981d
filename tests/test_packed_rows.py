"""Numbers of rows must reach their places in the packed file, whatever the packer's tiles."""

import numpy as np
import pytest

from device_agent.packed_layout import Bytes, MatrixLayout
from device_agent.packed_rows import PackedRows
from shard_store.codec import ShardView, pack_shard
from shard_store.geometry import LATTICE_BITWIDTHS, Cut, Geometry
from tests.stores import random_biases, random_matrices, small_geometry

GEOMETRY = small_geometry()


def layouts_of(geometry: Geometry, slices: int, tile: int, factor: int, offset: int) -> tuple[list[MatrixLayout], int]:
    """Matrices one behind the other: tiles of weights, sums, scales, biases; and the size of the file."""
    layouts: list[MatrixLayout] = []
    start = 64
    for matrix in geometry.slice_matrices:
        rows = matrix.rows * (slices if matrix.cut is Cut.ROWS else 1)
        columns = matrix.columns * (1 if matrix.cut is Cut.ROWS else slices)
        sums = start + tile * columns
        layout = MatrixLayout(
            rows, columns, tile, group=4, flip=False, stride=tile * (columns + 12), weights=start, sums=sums,
            scales=sums + 4 * tile, biases=sums + 8 * tile, sum_factor=factor, sum_offset=offset,
        )  # fmt: skip
        layouts.append(layout)
        start += -(-rows // tile) * layout.stride
    return layouts, start


def words(file: Bytes, layout: MatrixLayout, start: int) -> Bytes:
    """The numbers of rows, found tile by tile."""
    tiles = range(-(-layout.rows // layout.tile))
    parts = [file[start + tile * layout.stride :][: 4 * layout.tile] for tile in tiles]
    return np.concatenate(parts)[: 4 * layout.rows]


@pytest.mark.parametrize(("tile", "factor", "offset"), [(8, -1, 0), (48, 1, 77), (64, -128, 5)])
@pytest.mark.parametrize("slices", [1, 3, 4])
def test_numbers_reach_their_places(slices: int, tile: int, factor: int, offset: int) -> None:
    generator = np.random.default_rng(slices * tile)
    layouts, nbytes = layouts_of(GEOMETRY, slices, tile, factor, offset)
    file = np.zeros(nbytes, np.uint8)
    rows = PackedRows(file, layouts, GEOMETRY, slices)
    for _ in range(2):  # nothing of the first layer may be left in the second
        views = []
        for index in range(slices):
            bitwidth = int(generator.choice(LATTICE_BITWIDTHS))
            matrices = random_matrices(generator, GEOMETRY, bitwidth)
            payload = pack_shard(matrices, random_biases(generator, GEOMETRY), GEOMETRY, bitwidth)
            views.append(ShardView(memoryview(payload), GEOMETRY, bitwidth))
            rows.put(index, views[-1].row_numbers)
        shared = {
            f"{name}.{part}": generator.standard_normal(GEOMETRY.hidden, np.float32)
            for name in ("output", "ffn_down")
            for part in ("scale", "bias")
        }
        rows.put_shared(shared)
        rows.finish()
        for number, (matrix, layout) in enumerate(zip(GEOMETRY.slice_matrices, layouts, strict=True)):
            sums = np.stack([view.row_sums(number) for view in views])  # (slices, rows)
            if matrix.cut is Cut.ROWS:
                scales = np.concatenate([view.scales(number) for view in views])
                biases = np.concatenate([view.bias(number) for view in views])
                expected = sums.reshape(-1)
            else:
                scales, biases = shared[f"{matrix.name}.scale"], shared[f"{matrix.name}.bias"]
                expected = sums.sum(axis=0, dtype=np.int32)
            assert words(file, layout, layout.scales).tobytes() == scales.tobytes()
            assert words(file, layout, layout.biases).tobytes() == biases.tobytes()
            assert words(file, layout, layout.sums).view("<i4").tolist() == (expected * factor + offset).tolist()
    assert not file[:64].any()
