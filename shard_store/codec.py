"""One slice of one layer at one bitwidth, to and from bytes (docs/format.md, "Shard payload").

A lattice weight is W[r, c] ~ scale[r] * level[r, c] with int8 levels; the levels of 2 to 6 bits come from a codebook,
except for outliers, whose position and level are stored apart.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.bitpack import CODE_PLANES, pack_codes
from shard_store.errors import FormatError
from shard_store.geometry import EXACT_BITWIDTH, Cut, Geometry
from shard_store.shard_layout import ShardLayout, shard_layout

Float32s = npt.NDArray[np.float32]
Int8s = npt.NDArray[np.int8]

MAGIC = b"SHRD"
HEADER = struct.Struct("<4sIII")  # magic, bitwidth, number of outliers, length of the payload in bytes
IDENTITY_CODEBOOK: Int8s = np.arange(256, dtype=np.uint8).view(np.int8)
_NO_CODEBOOKS: Int8s = np.empty((0, 0), np.int8)
_NO_POSITIONS = np.empty(0, np.uint32)
_NO_LEVELS: Int8s = np.empty(0, np.int8)


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """A slice matrix on the lattice.

    codes: uint8 (rows, columns), indices into the codebook; codebook: int8 (2 ** bitwidth,);
    outlier_positions: uint32 (n,), flat positions in the matrix, strictly ascending; outlier_levels: int8 (n,);
    scales: float32 (rows,). At 8 bits the codebook is `IDENTITY_CODEBOOK` and there are no outliers.
    """

    codes: npt.NDArray[np.uint8]
    codebook: Int8s
    outlier_positions: npt.NDArray[np.uint32]
    outlier_levels: Int8s
    scales: Float32s

    @classmethod
    def linear(cls, levels: Int8s, scales: Float32s) -> "QuantizedMatrix":
        """The 8-bit form of levels (rows, columns): every int8 is its own code."""
        empty = np.empty(0, np.uint32)
        return cls(levels.view(np.uint8), IDENTITY_CODEBOOK, empty, empty.astype(np.int8), scales)

    def levels(self) -> Int8s:
        """The int8 levels (rows, columns): the definition that every decoder must match."""
        levels = self.codebook[self.codes]
        levels.reshape(-1)[self.outlier_positions] = self.outlier_levels
        return levels


def pack_shard(
    matrices: Sequence[QuantizedMatrix | Float32s],
    biases: Sequence[Float32s],
    geometry: Geometry,
    bitwidth: int,
) -> bytes:
    """The payload of one shard.

    matrices: the six of `geometry.slice_matrices`, in that order, quantized for 2 to 8 bits or float32 (rows, columns)
    for 32 bits; biases: float32 (rows,) for each of the four row-cut matrices, in that order. The scales of column-cut
    matrices belong to the layer and are not stored here. Raises FormatError if anything does not fit.
    """
    layout = shard_layout(geometry, bitwidth)
    row_cut = [index for index, first in enumerate(layout.first_rows) if first >= 0]
    if len(matrices) != len(layout.matrices) or len(biases) != len(row_cut):
        raise FormatError(
            f"shard: {len(matrices)} matrices and {len(biases)} biases, "
            f"must be {len(layout.matrices)} and {len(row_cut)}"
        )
    quantized = [matrix for matrix in matrices if isinstance(matrix, QuantizedMatrix)]
    if len(quantized) != (0 if bitwidth == EXACT_BITWIDTH else len(matrices)):
        raise FormatError(
            f"shard: {bitwidth} bits take {'float32' if bitwidth == EXACT_BITWIDTH else 'quantized'} matrices"
        )
    outliers = sum(matrix.outlier_positions.size for matrix in quantized)
    payload = np.zeros(layout.payload_bytes(outliers), np.uint8)
    HEADER.pack_into(payload.data, 0, MAGIC, bitwidth, outliers, payload.size)
    _put_rows(payload, layout.biases.offset, biases, layout, "bias")
    if quantized:
        _put_rows(payload, layout.scales.offset, [quantized[index].scales for index in row_cut], layout, "scales")
        _put_lattice(payload, quantized, layout)
        sums = [matrix.levels().sum(axis=1, dtype=np.int32) for matrix in quantized]
        _put(payload, layout.sums.offset, np.concatenate(sums))
    else:
        for shape, section, weights in zip(layout.matrices, layout.weights, matrices, strict=True):
            _require(weights, np.float32, (shape.rows, shape.columns), f"shard: {shape.name}")
            _put(payload, section.offset, np.asarray(weights))
    return payload.tobytes()


def _require(array: object, dtype: npt.DTypeLike, shape: tuple[int, ...], what: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise FormatError(f"{what} is {found}, must be {np.dtype(dtype)} {shape}")
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise FormatError(f"{what} holds values that are not finite")


def _put(payload: npt.NDArray[np.uint8], offset: int, values: npt.NDArray[Any]) -> None:
    stored = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
    payload[offset : offset + stored.size] = stored


def _put_rows(
    payload: npt.NDArray[np.uint8], offset: int, values: Sequence[Float32s], layout: ShardLayout, what: str
) -> None:
    row_cut = [matrix for matrix in layout.matrices if matrix.cut is Cut.ROWS]
    for matrix, rows in zip(row_cut, values, strict=True):
        _require(rows, np.float32, (matrix.rows,), f"shard: {what} of {matrix.name}")
        _put(payload, offset, rows)
        offset += 4 * matrix.rows


def _put_lattice(payload: npt.NDArray[np.uint8], matrices: Sequence[QuantizedMatrix], layout: ShardLayout) -> None:
    planes = CODE_PLANES.get(layout.bitwidth)
    positions: list[npt.NDArray[np.uint32]] = []
    for index, (shape, section, matrix) in enumerate(zip(layout.matrices, layout.weights, matrices, strict=True)):
        _check_matrix(matrix, layout, index)
        if planes is None:
            _put(payload, section.offset, matrix.codes)
            continue
        _put(payload, section.offset, pack_codes(matrix.codes.reshape(-1), planes))
        _put(payload, layout.codebooks.offset + index * planes.levels, matrix.codebook)
        positions.append(matrix.outlier_positions + np.uint32(layout.first_weights[index]))
        _require(
            matrix.outlier_levels, np.int8, matrix.outlier_positions.shape, f"shard: outlier levels of {shape.name}"
        )
    if positions:
        joined = np.concatenate(positions)
        _put(payload, layout.outliers, joined)
        _put(payload, layout.outliers + 4 * joined.size, np.concatenate([matrix.outlier_levels for matrix in matrices]))


def _check_matrix(matrix: QuantizedMatrix, layout: ShardLayout, index: int) -> None:
    shape = layout.matrices[index]
    what = f"shard: {{}} of {shape.name}"
    levels = 1 << layout.bitwidth
    _require(matrix.codes, np.uint8, (shape.rows, shape.columns), what.format("codes"))
    _require(matrix.codebook, np.int8, (levels,), what.format("codebook"))
    _require(matrix.outlier_positions, np.uint32, (matrix.outlier_positions.size,), what.format("outlier positions"))
    if int(matrix.codes.max()) >= levels:
        raise FormatError(
            f"{what.format('codes')} reach {matrix.codes.max()}, {layout.bitwidth} bits allow {levels - 1}"
        )
    if not layout.has_outliers and (
        matrix.outlier_positions.size or not np.array_equal(matrix.codebook, IDENTITY_CODEBOOK)
    ):
        raise FormatError(f"shard: {shape.name} at 8 bits must have the identity codebook and no outliers")
    if not _ascending_below(matrix.outlier_positions, shape.size):
        raise FormatError(f"{what.format('outlier positions')} must ascend strictly and lie below {shape.size}")


def _ascending_below(positions: npt.NDArray[np.uint32], limit: int) -> bool:
    return not positions.size or bool(positions[-1] < limit and (positions[1:] > positions[:-1]).all())


class ShardView:
    """A payload in the caller's buffer, checked as a whole before any part of it is used; copies nothing.

    Raises FormatError if header, length, outlier positions, biases or scales break the specification. The view is valid
    as long as the buffer's bytes are left alone; `Decoder.decode` turns it into weights.
    """

    __slots__ = ("_payload", "_rows", "codebooks", "layout", "outlier_levels", "outlier_positions")

    def __init__(self, payload: memoryview, geometry: Geometry, bitwidth: int) -> None:
        layout = shard_layout(geometry, bitwidth)
        if payload.nbytes < HEADER.size or not payload.c_contiguous:
            raise FormatError(f"shard: {payload.nbytes} contiguous bytes cannot hold a header of {HEADER.size}")
        magic, stored_bitwidth, outliers, length = HEADER.unpack_from(payload)
        if magic != MAGIC or stored_bitwidth != bitwidth:
            raise FormatError(
                f"shard: header says {magic!r}, {stored_bitwidth} bits; expected {MAGIC!r}, {bitwidth} bits"
            )
        if outliers > (layout.size if layout.has_outliers else 0):
            raise FormatError(f"shard: {outliers} outliers among {layout.size} weights of {bitwidth} bits")
        if not length == payload.nbytes == layout.payload_bytes(outliers):
            raise FormatError(
                f"shard: {payload.nbytes} bytes, header says {length}, layout says {layout.payload_bytes(outliers)}"
            )
        self.layout = layout
        self._payload = payload
        ends = layout.scales.end if layout.scales.nbytes else layout.biases.end
        self._rows: Float32s = self._part(layout.biases.offset, ends - layout.biases.offset, "<f4")
        if not np.isfinite(self._rows).all():
            raise FormatError("shard: biases or scales are not finite")
        self.codebooks: Int8s = _NO_CODEBOOKS  # (matrices, 2 ** bitwidth); none at 8 and 32 bits
        self.outlier_positions: npt.NDArray[np.uint32] = _NO_POSITIONS
        self.outlier_levels: Int8s = _NO_LEVELS
        if layout.has_outliers:
            codebooks = self._part(layout.codebooks.offset, layout.codebooks.nbytes, "i1")
            self.codebooks = codebooks.reshape(len(layout.matrices), -1)
        if outliers:
            self.outlier_positions = self._part(layout.outliers, 4 * outliers, "<u4")
            self.outlier_levels = self._part(layout.outliers + 4 * outliers, outliers, "i1")
            if not _ascending_below(self.outlier_positions, layout.size):
                raise FormatError(f"shard: outlier positions must ascend strictly and lie below {layout.size}")

    def _part(self, offset: int, nbytes: int, dtype: str) -> npt.NDArray[Any]:
        return np.frombuffer(self._payload, dtype, nbytes // int(dtype[-1]), offset)

    def bias(self, index: int) -> Float32s:
        """The bias (rows,) of row-cut matrix `index`; IndexError for a column-cut one: its bias is the layer's."""
        return self._row_values(index, 0)

    def scales(self, index: int) -> Float32s:
        """The row scales (rows,) of row-cut matrix `index` at 2 to 8 bits; IndexError for all others."""
        section = self.layout.scales
        if not section.nbytes:
            raise IndexError("a shard of 32 bits has no scales")
        return self._row_values(index, self.layout.word(section))

    def row_sums(self, index: int) -> npt.NDArray[np.int32]:
        """Sums of the levels of each row (rows,) of matrix `index` in this slice, at 2 to 8 bits; IndexError at 32."""
        if not self.layout.sums.nbytes:
            raise IndexError("a shard of 32 bits has no row sums")
        first, rows = self.layout.first_sums[index], self.layout.matrices[index].rows
        return self._part(self.layout.sums.offset + 4 * first, 4 * rows, "<i4")

    @property
    def row_numbers(self) -> npt.NDArray[np.int32]:
        """Biases, scales and sums of all rows, as they lie in the payload (`ShardLayout.numbers`), as words."""
        section = self.layout.numbers
        return self._part(section.offset, section.nbytes, "<i4")

    def _row_values(self, index: int, start: int) -> Float32s:
        first = self.layout.first_rows[index]
        if first < 0:
            raise IndexError(f"{self.layout.matrices[index].name} is cut by columns; its rows belong to the layer")
        return self._rows[start + first : start + first + self.layout.matrices[index].rows]

    def weights(self, index: int) -> npt.NDArray[Any]:
        """The stored weights of matrix `index`: packed uint8 at 2 to 6 bits, else int8 or float32 (rows, columns)."""
        matrix, section = self.layout.matrices[index], self.layout.weights[index]
        if self.layout.has_outliers:
            return self._part(section.offset, section.nbytes, "u1")
        dtype = "<f4" if self.layout.bitwidth == EXACT_BITWIDTH else "i1"
        return self._part(section.offset, section.nbytes, dtype).reshape(matrix.rows, matrix.columns)
