"""From hidden states to the logits of a vocabulary: the head's blocks, streamed like layers or kept in memory."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shard_store.errors import PlanError
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.reader import ShardReader, Store
from shard_store.span import Span
from shard_store.vocabulary_head import VocabularyHead, unpack_block

Floats: TypeAlias = npt.NDArray[np.float32]

_CHUNK_WEIGHTS = 1 << 17  # turned into floats at a time: half a MiB, so that they stay in the cache
_BUFFERS = 2  # one block is read while another is used


def vocabulary_bytes(head: VocabularyHead, hidden: int) -> int:
    """Memory that a reader of the head takes without kept blocks."""
    return _BUFFERS * _largest_block(head) + 4 * max(_CHUNK_WEIGHTS, hidden)


def _largest_block(head: VocabularyHead) -> int:
    return max(span.nbytes for spans in head.blocks.values() for span in spans)


class VocabularyReader:
    """Computes logits block by block; the next block is read meanwhile. One at a time: not thread-safe.

    The first blocks that fit `keep` bytes stay in memory: a fixed part, since blocks are visited in a cycle.
    """

    def __init__(self, store: Store, reader: ShardReader) -> None:
        head = store.manifest.vocabulary_head
        if head is None:
            raise PlanError(f"{store.path}: this model predicts no vocabulary")
        self._store, self._reader, self._head = store, reader, head
        self._hidden = store.manifest.geometry.hidden
        self._buffers = [memoryview(bytearray(_largest_block(head))) for _ in range(_BUFFERS)]
        self._scratch = np.empty(max(_CHUNK_WEIGHTS, self._hidden), np.float32)
        self._kept: dict[tuple[int, int], memoryview] = {}
        self._verified: set[tuple[int, int]] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vocabulary")

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._head.rows

    @property
    def working_bytes(self) -> int:
        """Memory that it takes without kept blocks."""
        return vocabulary_bytes(self._head, self._hidden)

    @property
    def kept_bytes(self) -> int:
        """Memory of the blocks that stay."""
        return sum(len(block) for block in self._kept.values())

    def keep(self, bitwidth: int, limit_bytes: int) -> None:
        """Keep the first blocks of a precision, as many as the limit holds, and no others."""
        used, wanted = 0, set()
        for number, span in enumerate(self._blocks(bitwidth) if limit_bytes else ()):
            used += span.nbytes
            if used > limit_bytes:
                break
            wanted.add((bitwidth, number))
        for key in self._kept.keys() - wanted:
            del self._kept[key]
        for key in sorted(wanted - self._kept.keys()):
            buffer = memoryview(bytearray(self._blocks(bitwidth)[key[1]].nbytes))
            self._kept[key] = self._read(key, buffer)

    def logits(self, hidden: Floats, bitwidth: int) -> Floats:
        """Hidden states (rows, hidden), behind the last norm, to logits (rows, vocabulary). Raises ChecksumError.

        A row's logits do not depend on the others, not in the last bit either.
        """
        logits = np.empty((len(hidden), self._head.rows), np.float32)
        for number, block in self._in_order(bitwidth):
            rows = self._head.rows_of(bitwidth, number)
            weights, scales = unpack_block(block, len(rows), self._hidden, bitwidth)
            self._multiply(hidden, weights, logits[:, rows.start : rows.stop])
            if bitwidth != EXACT_BITWIDTH:
                logits[:, rows.start : rows.stop] *= scales
        return logits

    def _multiply(self, hidden: Floats, weights: npt.NDArray[np.generic], out: Floats) -> None:
        step = max(1, _CHUNK_WEIGHTS // self._hidden)
        for start in range(0, len(weights), step):
            part = weights[start : start + step]
            floats = self._scratch[: part.size].reshape(part.shape)
            np.copyto(floats, part, casting="unsafe")
            for row in range(len(hidden)):  # alone: BLAS adds up in another order where there are several
                np.matmul(hidden[row : row + 1], floats.T, out=out[row : row + 1, start : start + step])

    def _in_order(self, bitwidth: int) -> Iterator[tuple[int, memoryview]]:
        missing = [n for n in range(len(self._blocks(bitwidth))) if (bitwidth, n) not in self._kept]
        flight: dict[int, Future[memoryview]] = {}

        def launch() -> None:
            if missing:
                number = missing.pop(0)
                flight[number] = self._thread.submit(self._read, (bitwidth, number), self._buffers[number % _BUFFERS])

        try:
            launch()
            for number in range(len(self._blocks(bitwidth))):
                if (kept := self._kept.get((bitwidth, number))) is not None:
                    yield number, kept
                    continue
                block = flight.pop(number).result()
                launch()
                yield number, block
        finally:
            for future in flight.values():
                if not future.cancel():
                    future.exception()  # its buffer is in use until it ends

    def _blocks(self, bitwidth: int) -> tuple[Span, ...]:
        if bitwidth not in self._head.blocks:
            raise PlanError(f"the store has no head at {bitwidth} bits; package that bitwidth")
        return self._head.blocks[bitwidth]

    def _read(self, key: tuple[int, int], buffer: memoryview) -> memoryview:
        block = self._store.head_block(*key, buffer, verify=key not in self._verified)
        self._reader.spend(len(block))
        self._verified.add(key)
        return block

    def close(self) -> None:
        """Let the thread go, and the blocks."""
        self._thread.shutdown()
        self._kept.clear()
