"""What a store holds, in a few numbers."""

from dataclasses import dataclass
from pathlib import Path

from shard_store.geometry import Geometry
from shard_store.reader import Store


@dataclass(frozen=True, slots=True)
class BitwidthSummary:
    """The shards of one bitwidth: bytes of all, and of the layer that takes most."""

    bits: int
    shards: int
    nbytes: int
    largest_layer_bytes: int


@dataclass(frozen=True, slots=True)
class TableSummary:
    """An embedding table, of which rows are read as they are needed."""

    name: str
    rows: int
    columns: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TemplateSummary:
    """The layer templates of one kind."""

    kind: str
    slices: tuple[int, ...]
    sequences: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class FileSummary:
    """A file."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoreSummary:
    """A whole store. resident_bytes: tensors that stay in memory as long as the model is loaded."""

    model: str
    family: str
    head: str
    labels: tuple[str, ...]
    geometry: Geometry
    max_tokens: int
    sequences: tuple[int, ...]
    bitwidths: tuple[BitwidthSummary, ...]
    resident_tensors: int
    resident_bytes: int
    tables: tuple[TableSummary, ...]
    templates: tuple[TemplateSummary, ...]
    files: tuple[FileSummary, ...]
    total_bytes: int


def summarize(path: Path) -> StoreSummary:
    """Read a store's manifest. Raises FormatError or ChecksumError."""
    with Store.open(path) as store:
        manifest = store.manifest
    model = manifest.description
    spans = [tensor.span for tensor in manifest.resident.values()]
    return StoreSummary(
        model=model.model,
        family=model.family,
        head=model.head.kind.value,
        labels=model.head.labels,
        geometry=model.geometry,
        max_tokens=model.max_tokens,
        sequences=model.sequences,
        bitwidths=tuple(
            _bitwidth(bits, [[s.nbytes for s in layer] for layer in manifest.shards[bits]])
            for bits in manifest.bitwidths
        ),
        resident_tensors=len(spans),
        resident_bytes=sum(span.nbytes for span in spans),
        tables=tuple(
            TableSummary(name, table.rows, table.columns, table.rows * table.stride)
            for name, table in manifest.row_tables.items()
        ),
        templates=tuple(_templates(store, kind) for kind in sorted({key.kind.value for key in manifest.templates})),
        files=tuple(FileSummary(name, file.nbytes, file.sha256) for name, file in manifest.files.items()),
        total_bytes=sum(file.nbytes for file in manifest.files.values()),
    )


def _bitwidth(bits: int, layers: list[list[int]]) -> BitwidthSummary:
    sizes = [sum(layer) for layer in layers]
    return BitwidthSummary(bits, sum(map(len, layers)), sum(sizes), max(sizes))


def _templates(store: Store, kind: str) -> TemplateSummary:
    chosen = {key: span for key, span in store.manifest.templates.items() if key.kind.value == kind}
    return TemplateSummary(
        kind,
        tuple(sorted({key.slices for key in chosen})),
        tuple(sorted({key.sequence for key in chosen})),
        sum(span.nbytes for span in chosen.values()),
    )
