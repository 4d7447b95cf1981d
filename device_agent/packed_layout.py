"""The layout in which XNNPACK packs an int8 matrix, learned from a packed example.

The layout differs between processors and versions and is documented nowhere. What is assumed here is only its plan:
tiles of rows lie one behind the other; a tile holds its weights, columns by groups, each group for all rows in turn,
and beside them three numbers for each row: a linear function of the sum of its weights, its scale, its bias. Whatever
else a packer may do (shuffled groups, other numbers) is refused, and whoever learns a layout still has to check that it
reproduces another packed example, byte for byte.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.errors import ExecutorError

Bytes = npt.NDArray[np.uint8]
Int8s = npt.NDArray[np.int8]
Float32s = npt.NDArray[np.float32]

_GROUPS = (64, 32, 16, 8, 4, 2, 1)
_WIDEST_TILE = 256
_SIGN = 0x80
_MARK = 8  # consecutive floats that are sought: no other place has them by chance


@dataclass(frozen=True, slots=True)
class MatrixLayout:
    """Where one matrix of rows x columns lies in a packed file; places in bytes.

    tile: rows of a tile; group: columns of a group; flip: whether weights are stored with their sign bit inverted;
    stride: from one tile to the next; weights, sums, scales, biases: in the first tile. A stored sum is
    sum_factor * (sum of the row's weights) + sum_offset.
    """

    rows: int
    columns: int
    tile: int
    group: int
    flip: bool
    stride: int
    weights: int
    sums: int
    scales: int
    biases: int
    sum_factor: int
    sum_offset: int

    def places(self, start: int) -> npt.NDArray[np.intp]:
        """The file's 4-byte words (rows,) that hold a number of each row; start: `sums`, `scales` or `biases`."""
        if start % 4 or self.stride % 4:
            raise ExecutorError("packed layout: the numbers of rows are not aligned")
        rows = np.arange(self.rows)
        return (start + rows // self.tile * self.stride) // 4 + rows % self.tile


@dataclass(frozen=True, slots=True)
class PackedBlock:
    """Where a block of a matrix's weights goes.

    runs: rows of the block that lie evenly, and their places (tiles, rows, groups, units); flip: what weights are
    combined with, if with anything.
    """

    runs: tuple[tuple[slice, npt.NDArray[Any]], ...]
    unit: np.dtype[Any]
    flip: Any

    def put(self, levels: Int8s) -> None:
        """Write contiguous levels (rows, columns) of the block's shape. Only calls that release the GIL touch many."""
        units = levels.view(self.unit)  # (rows, columns / unit)
        for rows, target in self.runs:
            source = units[rows].reshape(target.shape)
            if self.flip is None:
                np.copyto(target, source)
            else:
                np.bitwise_xor(source, self.flip, out=target)


class PackedMatrix:
    """A matrix in a packed file, to be overwritten."""

    def __init__(self, file: Bytes, layout: MatrixLayout) -> None:
        self._layout = layout
        unit = min(layout.group, 8)
        self._unit = np.dtype(f"u{unit}")
        self._flip = np.frombuffer(bytes([_SIGN]) * unit, self._unit)[0] if layout.flip else None
        tile, groups, units = layout.tile, layout.columns // layout.group, layout.group // unit
        self._weights = _strided(
            file, layout.weights, self._unit, (self._tiles, tile, groups, units),
            (layout.stride, layout.group, tile * layout.group, unit),
        )  # fmt: skip
        rows = np.dtype("<i4"), (self._tiles, tile), (layout.stride, 4)
        self._rows = tuple(_strided(file, start, *rows) for start in (layout.sums, layout.scales, layout.biases))

    @property
    def _tiles(self) -> int:
        return -(-self._layout.rows // self._layout.tile)

    def block(self, first_row: int, rows: int, first_column: int, columns: int) -> PackedBlock:
        """A part of the matrix. Raises ExecutorError unless its columns begin and end with a group."""
        group, tile = self._layout.group, self._layout.tile
        if first_column % group or columns % group:
            raise ExecutorError(f"packed layout: columns {first_column} to {first_column + columns} break groups")
        parts = slice(first_column // group, (first_column + columns) // group)
        runs = []
        for row, count in _runs(first_row, rows, tile):
            height, tiles = min(count, tile), slice(row // tile, -(-(row + count) // tile))
            target = self._weights[tiles, row % tile : row % tile + height, parts]
            runs.append((slice(row - first_row, row - first_row + count), target))
        return PackedBlock(tuple(runs), self._unit, self._flip)

    def clear(self) -> None:
        """Set to zero the weights and numbers of all rows, also of those that only fill the last tile up."""
        for view in self._views:
            view[:] = 0

    def clear_padding(self) -> None:
        """Set to zero the rows that only fill the last tile up: some packers repeat the last real row there.

        What they compute is thrown away.
        """
        if padded := self._tiles * self._layout.tile - self._layout.rows:
            for view in self._views:
                view[-1, self._layout.tile - padded :] = 0

    @property
    def _views(self) -> tuple[npt.NDArray[Any], ...]:
        return self._weights, *self._rows


def learn_layout(file: Bytes, weights: Int8s, scales: Float32s, biases: Float32s) -> MatrixLayout:
    """Find in a packed file the matrix (rows, columns) with these scales and biases (rows,), all of them random.

    Raises ExecutorError if the matrix is not there or its layout is none that is known.
    """
    rows, columns = weights.shape
    words = file[: file.size // 4 * 4].view("<f4")
    first_scale, first_bias = _find_floats(words, scales), _find_floats(words, biases)
    matching = _matching(words[first_scale // 4 :], scales)
    stride = _find_floats(words, scales[matching:]) - first_scale if matching < rows else 0
    region = max(0, first_scale - _WIDEST_TILE * (columns + 64))
    packed = file[region : first_scale + _WIDEST_TILE * (columns + 64)].tobytes()
    for flip in (False, True):
        stored = weights[:matching].view(np.uint8) ^ np.uint8(_SIGN if flip else 0)
        for group in _GROUPS:
            start = packed.find(stored[:, :group].tobytes()) if 2 * group <= columns else -1
            following = packed.find(stored[:, group : 2 * group].tobytes(), start + 1) if start >= 0 else -1
            tile = (following - start) // group
            if following < 0 or (stride and tile != matching) or columns % group:
                continue
            sums, factor, offset = _find_sums(file, region + start, tile * group * (columns // group), tile, weights)
            return MatrixLayout(
                rows, columns, tile, group, flip, stride, region + start, sums, first_scale, first_bias, factor, offset
            )
    raise ExecutorError(f"packed layout: no known order of {rows} x {columns} weights")


def _find_sums(file: Bytes, weights_start: int, nbytes: int, tile: int, weights: Int8s) -> tuple[int, int, int]:
    """The place of the row sums, just before or behind the weights of the tile; factor and offset."""
    sums = weights[:tile].sum(axis=1, dtype=np.int64)
    for place in (weights_start - 4 * tile, weights_start + nbytes):
        if place < 0 or place + 4 * sums.size > file.size:
            continue
        stored = file[place : place + 4 * sums.size].view("<i4").astype(np.int64)
        steps = np.flatnonzero(sums != sums[0])
        if steps.size:
            factor = int((stored[steps[0]] - stored[0]) // (sums[steps[0]] - sums[0]))
            offset = int(stored[0] - factor * sums[0])
            if factor and np.array_equal(stored, factor * sums + offset):
                return place, factor, offset
    raise ExecutorError("packed layout: no sums of rows beside the weights")


def _find_floats(words: npt.NDArray[Any], values: Float32s) -> int:
    """Offset in bytes of the first values."""
    for place in np.flatnonzero(words == values[0]).tolist():
        mark = min(_MARK, values.size)
        if _matching(words[place:], values[:mark]) == mark:
            return int(4 * place)
    raise ExecutorError("packed layout: scales or biases are not where they could be found")


def _matching(words: npt.NDArray[Any], values: Float32s) -> int:
    """How many values stand at the beginning of the words."""
    shared = min(words.size, values.size)
    different = np.flatnonzero(words[:shared] != values[:shared])
    return int(different[0]) if different.size else shared


def _runs(first: int, count: int, tile: int) -> Iterator[tuple[int, int]]:
    """Rows first to first + count as (row, rows): broken tiles by themselves, the whole ones between them together."""
    row, end = first, first + count
    while row < end:
        whole = 0 if row % tile else (end - row) // tile * tile
        rows = whole or min(tile - row % tile, end - row)
        yield row, rows
        row += rows


def _strided(
    file: Bytes, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> npt.NDArray[Any]:
    """A view that numpy itself checks against the bounds of the file."""
    try:
        return np.ndarray(shape, dtype, file.data, offset, strides)
    except ValueError as error:
        raise ExecutorError(f"packed layout: {error}") from error
