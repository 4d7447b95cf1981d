"""manifest.json to and from `Manifest`: canonical JSON, strictly typed, with a checksum of its own."""

import hashlib
import json
import math
from typing import Any

from shard_store.errors import ChecksumError, FormatError
from shard_store.generation import generation_document, parse_generation
from shard_store.geometry import BITWIDTHS, MAX_FEATURES, MAX_SLICES, Geometry
from shard_store.geometry_json import geometry_document, parse_geometry
from shard_store.head import parse_head
from shard_store.image_input import image_document, parse_image
from shard_store.json_fields import JsonFields, array, integer, parse_json
from shard_store.manifest import Manifest, ModelDescription, ResidentTensor, StoredFile, TemplateKey
from shard_store.manifest_checks import MAX_POSITION_OFFSET
from shard_store.profile_json import parse_profile, profile_document
from shard_store.row_table import MAX_ROWS, RowTable, RowType
from shard_store.span import MAX_CRC32, MAX_FILE_BYTES, Span, parse_span
from shard_store.store_files import DATA_FILES, MANIFEST_FILE, TOKENIZER_FILE
from shard_store.template import MAX_SEQUENCE, TemplateKind
from shard_store.vocabulary_head_json import parse_vocabulary_head, vocabulary_head_document

FORMAT_VERSION = 1
MAX_MANIFEST_BYTES = 64 << 20
MAX_RESIDENT_TENSORS = 1 << 14
MAX_TEMPLATES = 1 << 14
MAX_SEQUENCES = 64


def parse_manifest(raw: bytes) -> Manifest:
    """Reads manifest.json. Raises FormatError, or ChecksumError if its own checksum does not match."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise FormatError(f"{MANIFEST_FILE}: {len(raw)} bytes, the format allows {MAX_MANIFEST_BYTES}")
    document = parse_json(raw, MANIFEST_FILE)
    if not isinstance(document, dict):
        raise FormatError(f"{MANIFEST_FILE}: must be an object")
    fields = JsonFields(document, MANIFEST_FILE)
    version = fields.take("format_version")
    if version != FORMAT_VERSION or not isinstance(version, int) or isinstance(version, bool):
        shown = str(version)[:40]
        raise FormatError(f"{MANIFEST_FILE}: format_version is {shown}, this program reads {FORMAT_VERSION}; repackage")
    sha256 = fields.text("sha256", "[0-9a-f]{64}")
    _check_canonical(raw, document, sha256)
    manifest = _parse(fields)
    fields.finish()
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    """The bytes of manifest.json, in canonical form."""
    document = _document(manifest)
    if manifest.profile:
        document["profile"] = profile_document(manifest.profile)
    document["sha256"] = hashlib.sha256(_canonical(document)).hexdigest()
    return _canonical(document)


def _canonical(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _check_canonical(raw: bytes, document: dict[str, Any], sha256: str) -> None:
    try:
        canonical = _canonical(document)
        body = _canonical({key: value for key, value in document.items() if key != "sha256"})
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{MANIFEST_FILE}: not valid JSON ({str(error)[:100]})") from None
    # Comparing the whole text also refuses doubled fields and flipped bytes between the values.
    if canonical != raw or hashlib.sha256(body).hexdigest() != sha256:
        raise ChecksumError(f"{MANIFEST_FILE}: differs from what was written; the store is damaged, copy it again")


def _parse(fields: JsonFields) -> Manifest:
    description = ModelDescription(
        model=fields.text("model", ".+"),
        family=fields.text("family", ".*"),
        geometry=fields.object("geometry", parse_geometry),
        head=fields.object("head", parse_head),
        sequences=tuple(
            integer(value, f"{MANIFEST_FILE}.sequences", 1, MAX_SEQUENCE)
            for value in fields.array("sequences", MAX_SEQUENCES)
        ),
        max_tokens=fields.integer("max_tokens", 1, MAX_SEQUENCE),
        position_offset=fields.integer("position_offset", 0, MAX_POSITION_OFFSET),
        image=fields.object("image", parse_image) if fields.has("image") else None,
        generation=fields.object("generation", parse_generation) if fields.has("generation") else None,
    )
    fields.text("tokenizer", TOKENIZER_FILE.replace(".", r"\."))
    templates = fields.objects("templates", MAX_TEMPLATES, _parse_template)
    by_key = dict(templates)
    if len(by_key) != len(templates):
        raise FormatError(f"{MANIFEST_FILE}.templates: two templates of the same kind, slices and sequence")
    return Manifest(
        description=description,
        files=fields.mapping("files", len(DATA_FILES), _parse_file),
        shards=fields.object("shards", lambda shards: _parse_shards(shards, description.geometry)),
        resident=fields.mapping("resident", MAX_RESIDENT_TENSORS, _parse_resident),
        row_tables=fields.mapping("row_tables", 3, _parse_row_table),
        templates=by_key,
        profile=fields.object("profile", parse_profile) if fields.has("profile") else None,
        vocabulary_head=(
            fields.object("vocabulary_head", parse_vocabulary_head) if fields.has("vocabulary_head") else None
        ),
    )


def _parse_file(fields: JsonFields) -> StoredFile:
    return StoredFile(fields.integer("bytes", 0, MAX_FILE_BYTES), fields.text("sha256", "[0-9a-f]{64}"))


def _parse_shards(fields: JsonFields, geometry: Geometry) -> dict[int, tuple[tuple[Span, ...], ...]]:
    shards = {}
    for bitwidth in BITWIDTHS:
        if fields.has(str(bitwidth)):
            layers = fields.array(str(bitwidth), geometry.layers)
            where = f"{fields.where}.{bitwidth}"
            shards[bitwidth] = tuple(
                tuple(parse_span(span, where) for span in array(layer, where, geometry.slices)) for layer in layers
            )
    return shards


def _parse_resident(fields: JsonFields) -> ResidentTensor:
    fields.text("dtype", "float32")
    shape = tuple(integer(size, fields.where, 1, MAX_FEATURES) for size in fields.array("shape", 2))
    if not shape:
        raise FormatError(f"{fields.where}: shape is empty")
    offset, crc32 = fields.integer("offset", 0, MAX_FILE_BYTES), fields.integer("crc32", 0, MAX_CRC32)
    return ResidentTensor(shape, Span(offset, 4 * math.prod(shape), crc32))


def _parse_row_table(fields: JsonFields) -> RowTable:
    table = RowTable(
        offset=fields.integer("offset", 0, MAX_FILE_BYTES),
        rows=fields.integer("rows", 1, MAX_ROWS),
        columns=fields.integer("columns", 1, MAX_FEATURES),
        row_type=fields.choice("dtype", RowType),
    )
    fields.integer("stride", table.stride, table.stride)
    return table


def _parse_template(fields: JsonFields) -> tuple[TemplateKey, Span]:
    key = TemplateKey(
        kind=fields.choice("kind", TemplateKind),
        slices=fields.integer("slices", 1, MAX_SLICES),
        sequence=fields.integer("sequence", 1, MAX_SEQUENCE),
    )
    offset, nbytes = (fields.integer(name, 0, MAX_FILE_BYTES) for name in ("offset", "length"))
    return key, Span(offset, nbytes, fields.integer("crc32", 0, MAX_CRC32))


def _document(manifest: Manifest) -> dict[str, Any]:
    description, head = manifest.description, manifest.description.head
    document: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": description.model,
        "family": description.family,
        "geometry": geometry_document(description.geometry),
        "head": {
            "kind": head.kind.value, "pooling": head.pooling.value, "normalize": head.normalize,
            "scores": head.scores.value,
            "labels": list(head.labels),
            "layers": [
                {"weight": layer.weight, "bias": layer.bias, "activation": layer.activation.value}
                for layer in head.layers
            ],
        },
        "sequences": list(description.sequences),
        "max_tokens": description.max_tokens,
        "position_offset": description.position_offset,
        "tokenizer": TOKENIZER_FILE,
        "files": {name: {"bytes": file.nbytes, "sha256": file.sha256} for name, file in manifest.files.items()},
        "shards": {
            str(bitwidth): [[[span.offset, span.nbytes, span.crc32] for span in layer] for layer in layers]
            for bitwidth, layers in manifest.shards.items()
        },
        "resident": {
            name: {
                "dtype": "float32", "shape": list(tensor.shape), "offset": tensor.span.offset,
                "crc32": tensor.span.crc32,
            }
            for name, tensor in manifest.resident.items()
        },
        "row_tables": {
            name: {
                "offset": table.offset, "rows": table.rows, "columns": table.columns, "dtype": table.row_type.value,
                "stride": table.stride,
            }
            for name, table in manifest.row_tables.items()
        },
        "templates": [
            {
                "kind": key.kind.value, "slices": key.slices, "sequence": key.sequence, "offset": span.offset,
                "length": span.nbytes, "crc32": span.crc32,
            }
            for key, span in manifest.templates.items()
        ],
    }  # fmt: skip
    return document | _optional(manifest)


def _optional(manifest: Manifest) -> dict[str, Any]:
    """Fields that only some models have."""
    image, generation, head = (
        manifest.description.image, manifest.description.generation, manifest.vocabulary_head
    )  # fmt: skip
    fields: dict[str, Any] = {}
    if image is not None:
        fields["image"] = image_document(image)
    if generation is not None:
        fields["generation"] = generation_document(generation)
    if head is not None:
        fields["vocabulary_head"] = vocabulary_head_document(head)
    return fields
