"""The matrix from hidden states to the logits of a vocabulary, in blocks of rows (docs/format.md, "head.bin").

It is the largest matrix of many models and is used once for every token, so it is read block by block like a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard_store.errors import FormatError
from shard_store.generation import MAX_VOCABULARY
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.span import Span, align

HEAD_BITWIDTHS = (8, EXACT_BITWIDTH)
BLOCK_BYTES = 2 << 20
MAX_BLOCK_BYTES = 64 << 20
SECTION_ALIGNMENT = 64
BLOCK_ALIGNMENT = 4096

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VocabularyHead:
    """rows: size of the vocabulary; by bitwidth: rows of a block (the last may have fewer), and the blocks."""

    rows: int
    block_rows: Mapping[int, int]
    blocks: Mapping[int, tuple[Span, ...]]

    def rows_of(self, bitwidth: int, block: int) -> range:
        """The rows that a block holds."""
        step = self.block_rows[bitwidth]
        return range(block * step, min((block + 1) * step, self.rows))


def head_bitwidth(bitwidth: int) -> int:
    """The precision of the head beside layers of a bitwidth: exact beside exact ones, else 8 bits."""
    return EXACT_BITWIDTH if bitwidth == EXACT_BITWIDTH else 8


def rows_per_block(hidden: int, bitwidth: int) -> int:
    """How many rows a writer puts in a block: about BLOCK_BYTES."""
    return max(1, BLOCK_BYTES * 8 // (hidden * bitwidth))


def block_bytes(rows: int, hidden: int, bitwidth: int) -> int:
    """Bytes of a block: at 8 bits the rows' scales, then their levels; at 32 bits the rows."""
    if bitwidth == EXACT_BITWIDTH:
        return 4 * rows * hidden
    return align(4 * rows, SECTION_ALIGNMENT) + rows * hidden


def pack_block(rows: Floats, bitwidth: int) -> bytes:
    """A block of rows (n, hidden). At 8 bits each row is rounded linearly, its largest weight to 127."""
    if not np.isfinite(rows).all():
        raise FormatError("head: weights that are not finite")
    if bitwidth == EXACT_BITWIDTH:
        return np.ascontiguousarray(rows, "<f4").tobytes()
    scales = np.maximum(np.abs(rows).max(axis=1) / np.float32(127), np.float32(1e-30)).astype("<f4")  # (n,)
    levels = np.clip(np.rint(rows / scales[:, None]), -127, 127).astype(np.int8)
    padding = bytes(align(scales.nbytes, SECTION_ALIGNMENT) - scales.nbytes)
    return b"".join((scales.tobytes(), padding, levels.tobytes()))


def unpack_block(block: memoryview, rows: int, hidden: int, bitwidth: int) -> tuple[npt.NDArray[np.generic], Floats]:
    """Weights (rows, hidden), int8 or float32, and the rows' scales (rows,), all views. Raises FormatError."""
    if block.nbytes != block_bytes(rows, hidden, bitwidth):
        raise FormatError(f"head: a block of {block.nbytes} bytes, {rows} rows need other")
    if bitwidth == EXACT_BITWIDTH:
        return np.frombuffer(block, "<f4").reshape(rows, hidden), np.ones(rows, np.float32)
    scales = np.frombuffer(block, "<f4", rows)
    if not np.isfinite(scales).all():
        raise FormatError("head: scales that are not finite")
    levels = np.frombuffer(block, np.int8, rows * hidden, align(4 * rows, SECTION_ALIGNMENT))
    return levels.reshape(rows, hidden), scales


def check_vocabulary_head(head: VocabularyHead, hidden: int, file_bytes: int) -> None:
    """Raises FormatError unless the blocks cover the vocabulary, one behind the other."""
    if not 1 <= head.rows <= MAX_VOCABULARY or not head.blocks or head.blocks.keys() != head.block_rows.keys():
        raise FormatError(f"head.bin: {head.rows} rows at {len(head.blocks)} bitwidths is impossible")
    end = 0
    for bitwidth in HEAD_BITWIDTHS:
        if bitwidth not in head.blocks:
            continue
        step, spans = head.block_rows[bitwidth], head.blocks[bitwidth]
        if step < 1 or len(spans) != -(-head.rows // step) or block_bytes(step, hidden, bitwidth) > MAX_BLOCK_BYTES:
            raise FormatError(f"head.bin: {len(spans)} blocks of {step} rows at {bitwidth} bits, for {head.rows} rows")
        for number, span in enumerate(spans):
            nbytes = block_bytes(len(head.rows_of(bitwidth, number)), hidden, bitwidth)
            if span.offset != align(end, BLOCK_ALIGNMENT) or span.nbytes != nbytes:
                raise FormatError(f"head.bin: block {number} at {bitwidth} bits is not where or what it must be")
            end = span.end
    if file_bytes != align(end, BLOCK_ALIGNMENT):
        raise FormatError(f"head.bin: {file_bytes} bytes, the blocks need {align(end, BLOCK_ALIGNMENT)}")
