"""Codes of 2 to 6 bits, packed at exactly that many bits in planes that decode by table.

Codes are taken in groups of 2 or 4. The bits of a group form one index of 8, 10 or 12 bits, so that one look-up decodes
the whole group. The low bytes of all indices form the first plane; the remaining 2 or 4 bits of several indices share a
byte of the second plane (docs/format.md, "Packed codes").
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class CodePlanes:
    """How codes of one bitwidth are laid out.

    group: codes per index; parts: indices that share one byte of the second plane (1: there is no second plane).
    """

    bitwidth: int
    group: int
    parts: int

    @property
    def levels(self) -> int:
        """Entries of the codebook."""
        return 1 << self.bitwidth

    @property
    def entries(self) -> int:
        """Entries of the decode table: the number of different indices."""
        return 1 << (self.bitwidth * self.group)

    @property
    def high_bits(self) -> int:
        """Bits of an index that lie in the second plane."""
        return self.bitwidth * self.group - 8

    def packed_bytes(self, size: int) -> int:
        """Bytes of `size` packed codes; size is a multiple of 8."""
        return size * self.bitwidth // 8


CODE_PLANES = {
    2: CodePlanes(2, group=4, parts=1),
    3: CodePlanes(3, group=4, parts=2),
    4: CodePlanes(4, group=2, parts=1),
    5: CodePlanes(5, group=2, parts=4),
    6: CodePlanes(6, group=2, parts=2),
}


def pack_codes(codes: npt.NDArray[np.uint8], planes: CodePlanes) -> npt.NDArray[np.uint8]:
    """Packs flat codes (size,), each below 2 to the bitwidth, size a multiple of 8; returns (size * bitwidth / 8,)."""
    grouped = codes.reshape(-1, planes.group).astype(np.uint16)  # (groups, group)
    shifts = np.arange(planes.group, dtype=np.uint16) * np.uint16(planes.bitwidth)
    index = np.bitwise_or.reduce(grouped << shifts, axis=1)  # (groups,)
    low: npt.NDArray[np.uint8] = (index & 0xFF).astype(np.uint8)
    if planes.parts == 1:
        return low
    fields = (index >> 8).astype(np.uint8).reshape(planes.parts, -1)  # (parts, groups / parts)
    part_shifts = np.arange(planes.parts, dtype=np.uint8)[:, None] * np.uint8(planes.high_bits)
    high: npt.NDArray[np.uint8] = np.bitwise_or.reduce(fields << part_shifts, axis=0)
    return np.concatenate([low, high])
