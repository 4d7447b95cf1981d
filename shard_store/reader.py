"""Opens a store and reads everything but shards, each part verified before it is handed out."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from shard_store.errors import ChecksumError, FormatError, PlanError
from shard_store.file_access import RandomFile, aligned_buffer, file_bytes
from shard_store.manifest import Manifest, TemplateKey
from shard_store.manifest_json import MAX_MANIFEST_BYTES, parse_manifest
from shard_store.row_table import RowTable
from shard_store.shard_reader import ShardReader
from shard_store.span import Span
from shard_store.store_files import (
    EMBEDDINGS_FILE,
    HEAD_FILE,
    MANIFEST_FILE,
    RESIDENT_FILE,
    SHARD_FILES,
    TEMPLATES_FILE,
    TOKENIZER_FILE,
)  # fmt: skip
from shard_store.template import Template, TemplateKind, parse_template

__all__ = ["Progress", "ShardReader", "Store", "aligned_buffer"]

Progress = Callable[[str, int, int], None]  # name of the file, bytes verified so far, bytes in all
_CHUNK_BYTES = 1 << 20


class Store:
    """An open store. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._files: dict[str, RandomFile] = {}
        self._verified_rows = {name: np.zeros(table.rows, np.bool_) for name, table in manifest.row_tables.items()}
        try:
            for name in manifest.files:
                self._files[name] = RandomFile(path / name)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: Path) -> "Store":
        """Opens a store: its manifest is checked as a whole, and the size of every file.

        Raises FormatError for anything missing, truncated or against the format, ChecksumError for a damaged manifest.
        """
        nbytes = file_bytes(path / MANIFEST_FILE)
        if nbytes > MAX_MANIFEST_BYTES:
            raise FormatError(f"{path / MANIFEST_FILE}: {nbytes} bytes, the format allows {MAX_MANIFEST_BYTES}")
        raw = bytearray(nbytes)
        manifest_file = RandomFile(path / MANIFEST_FILE)
        try:
            manifest_file.read_into(memoryview(raw), 0)
        finally:
            manifest_file.close()
        manifest = parse_manifest(bytes(raw))
        for name, file in manifest.files.items():
            found = file_bytes(path / name)
            if found != file.nbytes:
                raise FormatError(f"{path / name}: has {found} bytes, expected {file.nbytes}; copy the store again")
        return cls(path, manifest)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all files; no read may be under way."""
        for file in self._files.values():
            file.close()

    def resident(self) -> dict[str, npt.NDArray[np.float32]]:
        """All small tensors by name, read-only. Raises ChecksumError naming a damaged one."""
        data = self._read(RESIDENT_FILE, 0, self.manifest.files[RESIDENT_FILE].nbytes)
        tensors = {}
        for name, tensor in self.manifest.resident.items():
            part = memoryview(data)[tensor.span.offset : tensor.span.end]
            tensor.span.check(part, f"{self.path / RESIDENT_FILE}: tensor {name}")
            tensors[name] = np.frombuffer(part, "<f4").reshape(tensor.shape).astype(np.float32, copy=False)
        return tensors

    def template(self, kind: TemplateKind, slices: int, sequence: int) -> Template:
        """The layer template of this kind, width and sequence; its slots fit the geometry.

        Raises PlanError if the store does not have it, ChecksumError or FormatError if it is damaged.
        """
        key = TemplateKey(TemplateKind(kind), slices, sequence)
        span = self.manifest.template_span(key)
        record = self._read(TEMPLATES_FILE, span.offset, span.nbytes)
        span.check(record, f"{self.path / TEMPLATES_FILE}: {key}")
        template = parse_template(record)
        if TemplateKey(template.kind, template.slices, template.sequence) != key:
            raise FormatError(f"{self.path / TEMPLATES_FILE}: {key}: the record holds another template")
        template.check_slots(self.manifest.geometry)
        return template

    def rows(self, table: str, indices: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Rows (n, columns) of an embedding table ("word", "position" or "token_type"), each verified when first read.

        Raises ChecksumError naming a damaged row, FormatError for a table or row that is not there.
        """
        if table not in self.manifest.row_tables:
            raise FormatError(f"{self.path}: no table {table}; it has {', '.join(self.manifest.row_tables)}")
        layout = self.manifest.row_tables[table]
        wanted = np.asarray(indices, np.intp)  # (n,)
        if not wanted.size:
            return np.empty((0, layout.columns), np.float32)
        if wanted.min() < 0 or wanted.max() >= layout.rows:
            bad = wanted[(wanted < 0) | (wanted >= layout.rows)][0]
            raise FormatError(f"{self.path}: row {bad} asked of table {table}, which has {layout.rows}")
        records = self._records(layout, wanted)
        verified = self._verified_rows[table]
        unverified = np.flatnonzero(~verified[wanted])
        if unverified.size:
            layout.check(records[unverified], wanted[unverified], table)
            verified[wanted[unverified]] = True
        return layout.decode(records)

    def _records(self, layout: RowTable, wanted: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        """Stored rows (n, stride); those that lie behind each other are read together."""
        records = np.empty((wanted.size, layout.stride), np.uint8)
        buffer, stride, file = records.data.cast("B"), layout.stride, self._files[EMBEDDINGS_FILE]
        start = 0
        for end in [*(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), wanted.size]:
            file.read_into(buffer[start * stride : end * stride], layout.offset + int(wanted[start]) * stride)
            start = end
        return records

    def head_block(self, bitwidth: int, number: int, buffer: memoryview, *, verify: bool) -> memoryview:
        """Reads one block of the vocabulary's head into a buffer, and returns the part that it takes.

        Raises ChecksumError for a damaged block if it is to be verified, PlanError if the store has no such block.
        """
        head = self.manifest.vocabulary_head
        if head is None or bitwidth not in head.blocks:
            raise PlanError(f"{self.path}: the store has no head at {bitwidth} bits; package that bitwidth")
        span = head.blocks[bitwidth][number]
        part = buffer[: span.nbytes]
        self._files[HEAD_FILE].read_into(part, span.offset)
        if verify:
            span.check(part, f"{self.path / HEAD_FILE}: block {number}, {bitwidth} bits")
        return part

    def tokenizer_bytes(self) -> bytes:
        """tokenizer.json as it was packaged. Raises ChecksumError if it is damaged."""
        file = self.manifest.files[TOKENIZER_FILE]
        data = self._read(TOKENIZER_FILE, 0, file.nbytes)
        self._check_sha256(TOKENIZER_FILE, hashlib.sha256(data).hexdigest())
        return data

    def drop_page_cache(self) -> None:
        """Makes the next reads cold, where the system can."""
        for file in self._files.values():
            file.drop_page_cache()

    def verify(self, progress: Progress | None = None) -> None:
        """Reads everything. Raises ChecksumError on the first fault, naming shard, tensor, template, row or file."""
        total = sum(file.nbytes for file in self.manifest.files.values())
        done = 0
        for name, file in self.manifest.files.items():
            for span, what in self._spans(name):
                span.check(self._read(name, span.offset, span.nbytes), f"{self.path / name}: {what}")
            if name == EMBEDDINGS_FILE:
                self._verify_rows()
            self._check_sha256(name, self._hash(name))  # finds damage to what lies between the parts
            done += file.nbytes
            if progress:
                progress(name, done, total)

    def _spans(self, name: str) -> Iterator[tuple[Span, str]]:
        manifest = self.manifest
        if name == RESIDENT_FILE:
            yield from ((tensor.span, f"tensor {key}") for key, tensor in manifest.resident.items())
        if name == TEMPLATES_FILE:
            yield from ((span, str(template)) for template, span in manifest.templates.items())
        if name == HEAD_FILE and manifest.vocabulary_head is not None:
            for bitwidth, blocks in manifest.vocabulary_head.blocks.items():
                yield from ((span, f"block {number}, {bitwidth} bits") for number, span in enumerate(blocks))
        for bitwidth, layers in manifest.shards.items():
            if name == SHARD_FILES[bitwidth]:
                for number, layer in enumerate(layers):
                    for index, span in enumerate(layer):
                        yield span, f"layer {number}, slice {index}, {bitwidth} bits"

    def _verify_rows(self) -> None:
        for table, layout in self.manifest.row_tables.items():
            step = rows_per_chunk(layout)
            for start in range(0, layout.rows, step):
                wanted = np.arange(start, min(start + step, layout.rows))
                layout.check(self._records(layout, wanted), wanted, table)

    def _hash(self, name: str) -> str:
        digest = hashlib.sha256()
        nbytes = self.manifest.files[name].nbytes
        for offset in range(0, nbytes, _CHUNK_BYTES):
            digest.update(self._read(name, offset, min(_CHUNK_BYTES, nbytes - offset)))
        return digest.hexdigest()

    def _check_sha256(self, name: str, found: str) -> None:
        if found != self.manifest.files[name].sha256:
            raise ChecksumError(f"{self.path / name}: SHA-256 differs from what was written; copy the store again")

    def _read(self, name: str, offset: int, nbytes: int) -> bytes:
        data = bytearray(nbytes)
        self._files[name].read_into(memoryview(data), offset)
        return bytes(data)


def rows_per_chunk(table: RowTable) -> int:
    """Rows that are verified at a time."""
    return max(1, _CHUNK_BYTES // table.stride)
