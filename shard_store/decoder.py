"""Turns shards into weights, in place: the inner loop of loading.

Only calls that release the GIL touch many weights (numpy's take with mode="clip", copyto and ufuncs), so that one
loading agent's decoding overlaps the others' work and the inference.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.bitpack import CODE_PLANES, CodePlanes
from shard_store.codec import ShardView
from shard_store.geometry import EXACT_BITWIDTH, Cut, Geometry
from shard_store.shard_layout import shard_layout

CHUNK_GROUPS = 1 << 15  # the indices of a chunk take 256 KiB, so that they stay in the second-level cache

_RECORDS: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}  # a group of levels, looked up together
_LATTICE, _EXACT = np.dtype(np.int8), np.dtype(np.float32)
_SHIFTS = {
    planes.bitwidth: np.array([[8 - part * planes.high_bits] for part in range(planes.parts)], np.uint16)
    for planes in CODE_PLANES.values()
}


def slice_views(
    matrices: Sequence[npt.NDArray[Any]], geometry: Geometry, slice_index: int
) -> tuple[npt.NDArray[Any], ...]:
    """The parts of a layer's six [out, in] matrices that belong to one slice.

    The matrices may hold the first m slices only: (m * rows, columns) if cut by rows, else (rows, m * columns).
    """
    views = []
    for shape, matrix in zip(shard_layout(geometry, EXACT_BITWIDTH).matrices, matrices, strict=True):
        if shape.cut is Cut.ROWS:
            views.append(matrix[slice_index * shape.rows : (slice_index + 1) * shape.rows])
        else:
            views.append(matrix[:, slice_index * shape.columns : (slice_index + 1) * shape.columns])
    return tuple(views)


class Decoder:
    """Scratch space for decoding shards of one geometry. One per thread: not thread-safe."""

    def __init__(self, geometry: Geometry) -> None:
        matrices = geometry.slice_matrices
        largest_table = max(planes.entries * planes.group for planes in CODE_PLANES.values())
        self._index = np.empty(CHUNK_GROUPS, np.intp)
        self._low = np.empty(CHUNK_GROUPS, "<u2")
        self._high = np.empty(CHUNK_GROUPS, "<u2")
        self._tables = np.empty(len(matrices) * largest_table, np.uint8)
        self._staged = np.empty(sum(matrix.size for matrix in matrices), np.int8)
        parts = np.split(self._staged, np.cumsum([matrix.size for matrix in matrices])[:-1])
        self._levels = tuple(
            part.reshape(matrix.rows, matrix.columns) for part, matrix in zip(parts, matrices, strict=True)
        )
        self._records = {group: tuple(part.view(_RECORDS[group]) for part in parts) for group in _RECORDS}

    @property
    def scratch_bytes(self) -> int:
        """Memory that the decoder holds."""
        scratch = (self._index, self._low, self._high, self._tables, self._staged)
        return sum(array.nbytes for array in scratch)

    def decode(self, view: ShardView, destinations: Sequence[npt.NDArray[Any]]) -> None:
        """Writes the matrices of a shard into the caller's arrays, of any strides (see `slice_views`).

        destinations: (rows, columns) each, int8 levels at 2 to 8 bits, float32 at 32 bits; ValueError otherwise.
        """
        layout = view.layout
        exact = layout.bitwidth == EXACT_BITWIDTH
        dtype = _EXACT if exact else _LATTICE
        for matrix, destination in zip(layout.matrices, destinations, strict=True):
            if destination.shape != (matrix.rows, matrix.columns) or destination.dtype != dtype:
                raise ValueError(f"{matrix.name}: destination is {destination.dtype} {destination.shape}")
        decoded = [view.weights(index) for index in range(len(destinations))] if exact else self.levels(view)
        for destination, values in zip(destinations, decoded, strict=True):
            np.copyto(destination, values)

    def levels(self, view: ShardView) -> tuple[npt.NDArray[np.int8], ...]:
        """The matrices of a shard of 2 to 8 bits, int8 (rows, columns) each, contiguous.

        Valid until the decoder's next use, and at 8 bits, where they are the payload itself, as long as that.
        """
        planes = CODE_PLANES.get(view.layout.bitwidth)
        if planes is None:
            return tuple(view.weights(index) for index in range(len(self._levels)))
        tables = self._build_tables(view.codebooks, planes)
        for index, records in enumerate(self._records[planes.group]):
            self._look_up(view.weights(index), tables[index], records, planes)
        if view.outlier_positions.size:
            self._staged[view.outlier_positions] = view.outlier_levels
        return self._levels

    def _build_tables(self, codebooks: npt.NDArray[np.int8], planes: CodePlanes) -> npt.NDArray[Any]:
        """The levels of every possible group, as one integer, for each codebook: (matrices, entries)."""
        dtype = _RECORDS[planes.group]
        codes = codebooks.view(np.uint8).astype(dtype)
        half_bits = 8
        while half_bits < 4 * planes.group:
            codes = (codes[:, None, :] | (codes[:, :, None] << half_bits)).reshape(len(codes), -1)
            half_bits *= 2
        tables = self._tables[: len(codes) * planes.entries * planes.group].view(dtype)
        last = tables.reshape(len(codes), codes.shape[1], codes.shape[1])
        np.bitwise_or(codes[:, None, :], (codes << half_bits)[:, :, None], out=last)
        by_matrix: npt.NDArray[Any] = tables.reshape(len(codes), planes.entries)
        return by_matrix

    def _look_up(
        self, packed: npt.NDArray[np.uint8], table: npt.NDArray[Any], records: npt.NDArray[Any], planes: CodePlanes
    ) -> None:
        """Decodes one matrix: packed (size * bitwidth / 8,) -> records (groups,) through the table (entries,)."""
        groups, parts = records.size, planes.parts
        low, high = packed[:groups], packed[groups:]  # high: (groups / parts,), empty where an index has 8 bits
        if parts == 1:
            for start in range(0, groups, CHUNK_GROUPS):
                index = self._index[: groups - start]
                np.copyto(index, low[start : start + CHUNK_GROUPS])
                table.take(index, out=records[start : start + CHUNK_GROUPS], mode="clip")
            return
        part = groups // parts
        low, records = low.reshape(parts, part), records.reshape(parts, part)
        chunk = CHUNK_GROUPS // parts
        for start in range(0, part, chunk):
            stop = min(start + chunk, part)
            index = self._index[: parts * (stop - start)].reshape(parts, -1)
            np.copyto(index, self._join(low[:, start:stop], high[start:stop], planes))
            if stop - start == part:
                table.take(index, out=records, mode="clip")
            else:
                for row, out in zip(index, records[:, start:stop], strict=True):
                    table.take(row, out=out, mode="clip")

    def _join(
        self, low: npt.NDArray[np.uint8], high: npt.NDArray[np.uint8], planes: CodePlanes
    ) -> npt.NDArray[np.uint16]:
        """Indices (parts, n) from their low bytes (parts, n) and the bytes (n,) that the rest of their bits share."""
        joined = self._high[: low.size].reshape(low.shape)
        widened = self._low[: low.size].reshape(low.shape)
        np.copyto(widened[0], high)
        np.left_shift(widened[0], _SHIFTS[planes.bitwidth], out=joined)
        np.bitwise_and(joined, np.uint16(((1 << planes.high_bits) - 1) << 8), out=joined)
        np.copyto(widened, low)
        np.bitwise_or(joined, widened, out=joined)
        return joined
