"""Writes a store: streamed to a directory of its own, put in place by one rename at the end."""

import glob
import hashlib
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from shard_store.codec import ShardView
from shard_store.errors import FormatError
from shard_store.geometry import BITWIDTHS, ShardKey
from shard_store.head import HeadKind
from shard_store.manifest import Manifest, ModelDescription, ResidentTensor, StoredFile, TemplateKey
from shard_store.manifest_checks import LAYER_ALIGNMENT, TENSOR_ALIGNMENT
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.row_table import RowTable, RowType
from shard_store.shard_layout import SHARD_ALIGNMENT
from shard_store.span import Span, align
from shard_store.store_files import (
    DATA_FILES,
    EMBEDDINGS_FILE,
    HEAD_FILE,
    MANIFEST_FILE,
    RESIDENT_FILE,
    SHARD_FILES,
    TEMPLATES_FILE,
    TOKENIZER_FILE,
)  # fmt: skip
from shard_store.template import Template, pack_template
from shard_store.vocabulary_head import BLOCK_ALIGNMENT, VocabularyHead, pack_block, rows_per_block

_ABANDONED_SECONDS = 24 * 3600  # younger unfinished stores may belong to a writer at work


class HashedFile:
    """A file that is written once, front to back, and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._position = 0

    def append(self, data: bytes | memoryview, alignment: int = 1) -> Span:
        """Pads with zeros to the alignment, then writes the data; returns where it lies."""
        self._write(bytes(align(self._position, alignment) - self._position))
        offset = self._position
        self._write(data)
        return Span(offset, self._position - offset, zlib.crc32(data))

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._position += len(data)

    def finish(self) -> StoredFile:
        """Forces the file to flash and closes it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return StoredFile(self._position, self._sha256.hexdigest())

    def close(self) -> None:
        """Closes the file as it is."""
        self._file.close()


class StoreWriter:
    """Builds a store beside `out`; `finish` puts it in place of what was there, any other end of the block discards it.

    Raises FormatError if `out` exists and is not a store, or if anything added breaks the format.
    """

    def __init__(self, out: Path, description: ModelDescription, bitwidths: Iterable[int]) -> None:
        self._out = out.resolve()
        self._description = description
        self._bitwidths = tuple(sorted(set(bitwidths)))
        for bitwidth in self._bitwidths:
            if bitwidth not in BITWIDTHS:
                raise FormatError(f"bitwidth is {bitwidth}, must be one of {', '.join(map(str, BITWIDTHS))}")
        self._partial = self._out.with_name(f".{self._out.name}.{secrets.token_hex(4)}.partial")
        self._files: dict[str, HashedFile] = {}
        self._shards: dict[int, list[list[Span]]] = {bitwidth: [] for bitwidth in self._bitwidths}
        self._resident: dict[str, ResidentTensor] = {}
        self._row_tables: dict[str, RowTable] = {}
        self._templates: dict[TemplateKey, Span] = {}
        self._vocabulary_head: VocabularyHead | None = None

    def __enter__(self) -> "StoreWriter":
        _recover(self._out)
        _check_replaceable(self._out)
        self._out.parent.mkdir(parents=True, exist_ok=True)
        self._partial.mkdir()
        names = [RESIDENT_FILE, EMBEDDINGS_FILE, TEMPLATES_FILE, TOKENIZER_FILE]
        if self._description.head.kind is HeadKind.LANGUAGE_MODEL:
            names.append(HEAD_FILE)
        for name in (*names, *(SHARD_FILES[bitwidth] for bitwidth in self._bitwidths)):
            self._files[name] = HashedFile(self._partial / name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def add_shard(self, key: ShardKey, payload: bytes) -> None:
        """Adds the next shard of its bitwidth: layer by layer, in each the slices in order."""
        if key.bitwidth not in self._shards:
            raise FormatError(f"{key}: this store has {', '.join(map(str, self._bitwidths))} bits")
        ShardView(memoryview(payload), self._description.geometry, key.bitwidth)
        layers = self._shards[key.bitwidth]
        if not layers or len(layers[-1]) == self._description.geometry.slices:
            layers.append([])
        if (key.layer, key.slice) != (len(layers) - 1, len(layers[-1])):
            raise FormatError(f"{key}: the next of its bitwidth is layer {len(layers) - 1}, slice {len(layers[-1])}")
        alignment = SHARD_ALIGNMENT if layers[-1] else LAYER_ALIGNMENT
        layers[-1].append(self._files[SHARD_FILES[key.bitwidth]].append(payload, alignment))

    def add_resident(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """Adds a small tensor, such as "layer.3.attention_norm.gamma", of 1 or 2 dimensions."""
        if name in self._resident:
            raise FormatError(f"resident tensor {name} is added twice")
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise FormatError(f"resident tensor {name} must hold finite float32 values")
        data = np.ascontiguousarray(values, "<f4").tobytes()
        self._resident[name] = ResidentTensor(values.shape, self._files[RESIDENT_FILE].append(data, TENSOR_ALIGNMENT))

    def add_row_table(
        self, name: str, columns: int, row_type: RowType, chunks: Iterable[npt.NDArray[np.floating]]
    ) -> None:
        """Adds an embedding table ("word", "position" or "token_type") from chunks of rows (n, columns)."""
        if name in self._row_tables:
            raise FormatError(f"row table {name} is added twice")
        file = self._files[EMBEDDINGS_FILE]
        offset = file.append(b"", TENSOR_ALIGNMENT).offset
        rows = 0
        for chunk in chunks:
            file.append(RowTable(offset, len(chunk), columns, row_type).encode(chunk))
            rows += len(chunk)
        self._row_tables[name] = RowTable(offset, rows, columns, row_type)

    def add_template(self, template: Template) -> None:
        """Adds the template of one kind, width and sequence."""
        template.check_slots(self._description.geometry)
        key = TemplateKey(template.kind, template.slices, template.sequence)
        if key in self._templates:
            raise FormatError(f"{key} is added twice")
        self._templates[key] = self._files[TEMPLATES_FILE].append(pack_template(template), TENSOR_ALIGNMENT)

    def add_vocabulary_head(self, weight: npt.NDArray[np.float32], bitwidths: Iterable[int]) -> None:
        """Adds the matrix (vocabulary, hidden) of a language model's head, at 8 or 32 bits or both."""
        file, hidden = self._files[HEAD_FILE], weight.shape[1]
        blocks: dict[int, tuple[Span, ...]] = {}
        for bitwidth in sorted(bitwidths):
            step = rows_per_block(hidden, bitwidth)
            blocks[bitwidth] = tuple(
                file.append(pack_block(weight[start : start + step], bitwidth), BLOCK_ALIGNMENT)
                for start in range(0, len(weight), step)
            )
        file.append(b"", BLOCK_ALIGNMENT)
        steps = {bitwidth: rows_per_block(hidden, bitwidth) for bitwidth in blocks}
        self._vocabulary_head = VocabularyHead(len(weight), steps, blocks)

    def add_tokenizer(self, data: bytes) -> None:
        """Adds tokenizer.json as it is."""
        self._files[TOKENIZER_FILE].append(data)

    def finish(self) -> Manifest:
        """Completes the store and puts it in place; what was there before is removed only then."""
        for bitwidth in self._bitwidths:
            self._files[SHARD_FILES[bitwidth]].append(b"", LAYER_ALIGNMENT)
        manifest = Manifest(
            description=self._description,
            files={name: file.finish() for name, file in self._files.items()},
            shards={bitwidth: tuple(map(tuple, layers)) for bitwidth, layers in self._shards.items()},
            resident=self._resident,
            row_tables=self._row_tables,
            templates=self._templates,
            vocabulary_head=self._vocabulary_head,
        )
        data = dump_manifest(manifest)
        parse_manifest(data)  # what is written is what every reader accepts
        manifest_file = HashedFile(self._partial / MANIFEST_FILE)
        manifest_file.append(data)
        manifest_file.finish()
        _sync_directory(self._partial)
        _replace(self._partial, self._out)
        return manifest


def _recover(out: Path) -> None:
    """Clear up after writers that were killed: put a store back that was being replaced, delete unfinished ones."""
    for aside in sorted(out.parent.glob(f".{glob.escape(out.name)}.*.old")):
        if not out.exists():
            aside.rename(out)
        else:
            shutil.rmtree(aside, ignore_errors=True)
    for partial in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    names = {entry.name for entry in out.iterdir()} if out.is_dir() else {""}
    if names and not (MANIFEST_FILE in names and names <= {MANIFEST_FILE, *DATA_FILES}):
        raise FormatError(f"{out} exists and is not a store; choose another directory or remove it")


def _replace(partial: Path, out: Path) -> None:
    _check_replaceable(out)
    aside = partial.with_suffix(".old")
    if out.exists():
        out.rename(aside)
    try:
        partial.rename(out)
    except OSError:
        if aside.exists():
            aside.rename(out)
        raise
    _sync_directory(out.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
