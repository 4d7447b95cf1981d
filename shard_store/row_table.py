"""Embedding tables whose rows are read and verified one by one (docs/format.md, "embeddings.bin")."""

import zlib
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from shard_store.errors import ChecksumError, FormatError
from shard_store.span import align

STRIDE_ALIGNMENT = 16
MAX_ROWS = 1 << 24
CRC_BYTES = 4


class RowType(str, Enum):
    """How the values of a table are stored."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"

    @property
    def dtype(self) -> np.dtype[np.float16] | np.dtype[np.float32]:
        """The stored type, little-endian."""
        return np.dtype("<f2") if self is RowType.FLOAT16 else np.dtype("<f4")


@dataclass(frozen=True, slots=True)
class RowTable:
    """rows x columns values at `offset` of embeddings.bin; each row has its CRC-32 behind it."""

    offset: int
    rows: int
    columns: int
    row_type: RowType

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's values."""
        return self.columns * self.row_type.dtype.itemsize

    @property
    def stride(self) -> int:
        """Bytes from one row to the next."""
        return align(self.row_bytes + CRC_BYTES, STRIDE_ALIGNMENT)

    @property
    def nbytes(self) -> int:
        """Bytes of the table."""
        return self.rows * self.stride

    def encode(self, values: npt.NDArray[np.floating]) -> bytes:
        """Stored rows of values (n, columns). Raises FormatError for another shape or values that are not finite."""
        if values.ndim != 2 or values.shape[1] != self.columns:
            raise FormatError(f"row table: rows of shape {values.shape}, must have {self.columns} columns")
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which is refused below
            stored = np.ascontiguousarray(values, self.row_type.dtype)
        if not np.isfinite(stored).all():
            raise FormatError(f"row table: values that are not finite as {self.row_type.value}")
        records = np.zeros((len(values), self.stride), np.uint8)
        records[:, : self.row_bytes] = stored.view(np.uint8)
        checksums = np.array([zlib.crc32(row.data) for row in stored.view(np.uint8)], "<u4")
        records[:, self.row_bytes : self.row_bytes + CRC_BYTES] = checksums[:, None].view(np.uint8)
        return records.tobytes()

    def check(self, records: npt.NDArray[np.uint8], indices: npt.NDArray[np.intp], name: str) -> None:
        """Raises ChecksumError naming the first of these stored rows (n, stride) that is damaged."""
        row_bytes = self.row_bytes
        stored = records[:, row_bytes : row_bytes + CRC_BYTES].copy().view("<u4")[:, 0]  # (n,)
        for index, record, checksum in zip(indices.tolist(), records, stored.tolist(), strict=True):
            if zlib.crc32(record[:row_bytes].data) != checksum:
                raise ChecksumError(
                    f"embeddings.bin: row {index} of table {name}: checksum differs from what was written; "
                    "the store is damaged, copy it again"
                )

    def decode(self, records: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Values (n, columns) of stored rows (n, stride)."""
        stored = records.view(self.row_type.dtype)  # (n, stride / itemsize)
        return stored[:, : self.columns].astype(np.float32)
