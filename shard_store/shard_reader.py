"""Reads shards from flash into the caller's buffers: neighbours in one call, verified the first time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING

from shard_store.file_access import PAGE_BYTES, RandomFile
from shard_store.geometry import ShardKey
from shard_store.manifest import Manifest
from shard_store.shard_layout import SHARD_ALIGNMENT
from shard_store.span import Span, align
from shard_store.store_files import SHARD_FILES
from shard_store.token_bucket import TokenBucket

if TYPE_CHECKING:
    from shard_store.reader import Store

_RUNS_KEPT = 256  # what the layers of some plans need, read after read


@dataclass(frozen=True, slots=True)
class ShardRun:
    """Shards that lie behind each other in one file, and so are read together, in whole pages."""

    bitwidth: int
    spans: tuple[Span, ...]

    @property
    def offset(self) -> int:
        """Where the read starts: the page of the first shard."""
        return self.spans[0].offset // PAGE_BYTES * PAGE_BYTES

    @property
    def nbytes(self) -> int:
        """Bytes to read, to the end of the page of the last shard."""
        return align(self.spans[-1].end, PAGE_BYTES) - self.offset


def shard_runs(manifest: Manifest, keys: Sequence[ShardKey]) -> Iterator[ShardRun]:
    """Joins shards that are neighbours both in `keys` and in their file. Raises PlanError for one not stored."""
    spans: list[Span] = []
    bitwidth = 0
    for key in keys:
        span = manifest.shard_span(key)
        if spans and (key.bitwidth != bitwidth or span.offset != align(spans[-1].end, SHARD_ALIGNMENT)):
            yield ShardRun(bitwidth, tuple(spans))
            spans = []
        bitwidth = key.bitwidth
        spans.append(span)
    if spans:
        yield ShardRun(bitwidth, tuple(spans))


class ShardReader:
    """Reads shards of one store. Thread-safe: loading agents share one, each with a buffer of its own.

    direct: True for reads past the page cache (DeviceError where the file system refuses), False for buffered reads,
    None for direct reads where possible; throttle_bytes_per_s: speed of an emulated flash, None for no throttle.
    """

    def __init__(
        self,
        store: "Store",
        direct: bool | None = None,
        throttle_bytes_per_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._manifest = store.manifest
        self._paths = {bitwidth: store.path / SHARD_FILES[bitwidth] for bitwidth in store.manifest.bitwidths}
        self._throttle = TokenBucket(throttle_bytes_per_s, clock, sleep) if throttle_bytes_per_s is not None else None
        self._files: dict[int, RandomFile] = {}
        try:
            for bitwidth, path in self._paths.items():
                self._files[bitwidth] = RandomFile(path, direct)
        except BaseException:
            self.close()
            raise
        self._runs = lru_cache(_RUNS_KEPT)(self._find_runs)
        self._verified: set[ShardKey] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _find_runs(self, keys: tuple[ShardKey, ...]) -> tuple[ShardRun, ...]:
        return tuple(shard_runs(self._manifest, keys))

    @property
    def direct(self) -> bool:
        """Whether all reads go past the page cache."""
        return all(file.direct for file in self._files.values())

    def buffer_bytes(self, keys: Sequence[ShardKey]) -> int:
        """Bytes of buffer that `read` needs for these shards."""
        return sum(run.nbytes for run in self._runs(tuple(keys)))

    def read(self, keys: Sequence[ShardKey], buffer: memoryview) -> list[memoryview]:
        """Reads shards into a buffer of at least `buffer_bytes(keys)` bytes, from `aligned_buffer` for direct reads.

        Returns each shard's payload, a part of the buffer, in the order of `keys`. Raises ChecksumError, naming the
        shard, on the first read of one that is damaged; PlanError for one that is not stored; ValueError for a buffer
        that is too small; FormatError or DeviceError if the file is truncated or cannot be read.
        """
        runs = self._runs(tuple(keys))
        needed = sum(run.nbytes for run in runs)
        if buffer.nbytes < needed:
            raise ValueError(f"buffer has {buffer.nbytes} bytes, {len(keys)} shards need {needed}")
        payloads: list[memoryview] = []
        start = 0
        asked_s = self._throttle.now() if self._throttle else None
        for run in runs:
            part = buffer[start : start + run.nbytes]
            self._files[run.bitwidth].read_into(part, run.offset)
            payloads += [part[span.offset - run.offset : span.end - run.offset] for span in run.spans]
            start += run.nbytes
        self.spend(needed, asked_s)
        for key, payload in zip(keys, payloads, strict=True):
            self._verify(key, payload)
        return payloads

    def spend(self, nbytes: int, asked_s: float | None = None) -> None:
        """Wait as long as the emulated flash takes for this many bytes, also of other files."""
        if self._throttle:
            self._throttle.spend(nbytes, asked_s)

    def _verify(self, key: ShardKey, payload: memoryview) -> None:
        with self._lock:
            if key in self._verified:
                return
        self._manifest.shard_span(key).check(payload, f"{self._paths[key.bitwidth]}: {key}")
        with self._lock:
            self._verified.add(key)

    def close(self) -> None:
        """Closes the files; no read may be under way."""
        for file in self._files.values():
            file.close()
