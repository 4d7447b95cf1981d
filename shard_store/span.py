"""Ranges of bytes in the store's files."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from shard_store.errors import ChecksumError, FormatError
from shard_store.json_fields import array, integer

MAX_FILE_BYTES = 1 << 40
MAX_CRC32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of a file, with their CRC-32 (that of zlib)."""

    offset: int
    nbytes: int
    crc32: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind the range."""
        return self.offset + self.nbytes

    def check(self, data: bytes | memoryview, what: str) -> None:
        """Raises ChecksumError, naming `what`, if the bytes are not those that were written."""
        found = zlib.crc32(data)
        if found != self.crc32:
            raise ChecksumError(
                f"{what}: checksum is {found:08x}, written was {self.crc32:08x}; the store is damaged, copy it again"
            )


def align(offset: int, alignment: int) -> int:
    """The next multiple of the alignment at or behind the offset."""
    return -(-offset // alignment) * alignment


def check_apart(ranges: Iterable[tuple[int, int, str]], file_bytes: int, alignment: int) -> None:
    """Checks ranges (offset, nbytes, what) of one file: aligned, inside the file and apart from each other."""
    end = 0
    for offset, nbytes, what in sorted(ranges):
        if offset % alignment:
            raise FormatError(f"{what}: offset {offset} is not a multiple of {alignment}")
        if offset < end:
            raise FormatError(f"{what}: offset {offset} overlaps what ends at {end}")
        end = offset + nbytes
        if end > file_bytes:
            raise FormatError(f"{what}: ends at {end}, behind the end of {file_bytes} bytes")


def parse_span(value: object, where: str) -> Span:
    """From `[offset, length, crc32]`. Raises FormatError."""
    numbers = array(value, where, 3)
    if len(numbers) != 3:
        raise FormatError(f"{where}: a shard must be [offset, length, crc32]")
    offset, nbytes = (integer(number, where, 0, MAX_FILE_BYTES) for number in numbers[:2])
    return Span(offset, nbytes, integer(numbers[2], where, 0, MAX_CRC32))
