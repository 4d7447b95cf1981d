"""What a manifest must fulfil beyond the types of its fields: all that can be known before any data is touched."""

from typing import TYPE_CHECKING

from shard_store.errors import FormatError
from shard_store.geometry import EXACT_BITWIDTH, Geometry
from shard_store.head import RESIDENT_NAME, HeadKind
from shard_store.json_fields import text
from shard_store.layer_spec import NormKind, NormPosition, Positions
from shard_store.row_table import RowTable
from shard_store.shard_layout import SHARD_ALIGNMENT, shard_layout
from shard_store.span import Span, align, check_apart
from shard_store.store_files import (
    EMBEDDINGS_FILE,
    FIXED_FILES,
    HEAD_FILE,
    RESIDENT_FILE,
    SHARD_FILES,
    TEMPLATES_FILE,
)  # fmt: skip
from shard_store.template import MAX_FLATBUFFER_BYTES, MAX_SEQUENCE
from shard_store.vocabulary_head import check_vocabulary_head

if TYPE_CHECKING:
    from shard_store.manifest import Manifest, ModelDescription

KNOWN_FAMILIES = ("bert", "distilbert", "roberta", "vit", "gpt2", "llama", "qwen2")
FAMILIES_WITH_TOKEN_TYPES = ("bert", "roberta")
MAX_POSITION_OFFSET = 1024
LAYER_ALIGNMENT = 4096
TENSOR_ALIGNMENT = 64


def check_description(description: "ModelDescription") -> None:
    """Raises FormatError unless family, sequences and limits are possible."""
    if description.family not in KNOWN_FAMILIES:
        raise FormatError(f"family is {description.family[:40]!r}, known are {', '.join(KNOWN_FAMILIES)}")
    sequences = description.sequences
    if (
        not sequences
        or list(sequences) != sorted(set(sequences))
        or not 1 <= sequences[0] <= sequences[-1] <= MAX_SEQUENCE
    ):
        raise FormatError(f"sequences {list(sequences)[:8]} must ascend from 1 to {MAX_SEQUENCE} at most")
    if not 1 <= description.max_tokens <= MAX_SEQUENCE or not 0 <= description.position_offset <= MAX_POSITION_OFFSET:
        raise FormatError(
            f"max_tokens {description.max_tokens} or position_offset {description.position_offset} is impossible"
        )
    _check_task(description)


def _check_task(description: "ModelDescription") -> None:
    """Causal layers, a vocabulary to predict and what is known of generation come together."""
    causal = description.geometry.spec.causal
    if causal != (description.head.kind is HeadKind.LANGUAGE_MODEL) or causal != (description.generation is not None):
        raise FormatError("causal layers, a language_model head and generation must come together")
    image = description.image
    if image is not None and (causal or description.max_tokens != image.patches + 1):
        raise FormatError(
            f"an image of {image.patches} patches needs max_tokens {image.patches + 1} and no causal layers"
        )
    if image is not None and description.sequences != (description.max_tokens,):
        raise FormatError(f"sequences of an image model must be its {description.max_tokens} patches and class token")


def check_manifest(manifest: "Manifest") -> None:
    """Raises FormatError unless everything that the model needs is there, aligned, inside its file and apart."""
    _check_files(manifest)
    for bitwidth, layers in manifest.shards.items():
        _check_shards(manifest.geometry, bitwidth, layers, manifest.files[SHARD_FILES[bitwidth]].nbytes)
    _check_resident(manifest)
    _check_row_tables(manifest)
    _check_templates(manifest)
    if (head := manifest.vocabulary_head) is not None:
        check_vocabulary_head(head, manifest.geometry.hidden, manifest.files[HEAD_FILE].nbytes)
    if manifest.profile:
        manifest.profile.check(manifest.geometry, tuple(manifest.shards))


def _check_files(manifest: "Manifest") -> None:
    if not manifest.shards:
        raise FormatError("manifest: no shards at any bitwidth")
    expected = {*FIXED_FILES, *(SHARD_FILES[bitwidth] for bitwidth in manifest.shards)}
    if manifest.description.head.kind is HeadKind.LANGUAGE_MODEL:
        expected.add(HEAD_FILE)
    if (manifest.vocabulary_head is not None) != (HEAD_FILE in expected):
        raise FormatError("manifest: vocabulary_head belongs to language models, and only to them")
    for name in sorted(expected ^ manifest.files.keys()):
        raise FormatError(
            f"manifest: file {name[:100]!r} is {'missing' if name in expected else 'not part of a store'}"
        )


def _check_shards(geometry: Geometry, bitwidth: int, layers: tuple[tuple[Span, ...], ...], file_bytes: int) -> None:
    where = SHARD_FILES[bitwidth]
    layout = shard_layout(geometry, bitwidth)
    most = layout.payload_bytes(layout.size if layout.has_outliers else 0)
    if len(layers) != geometry.layers:
        raise FormatError(f"{where}: {len(layers)} layers, the geometry has {geometry.layers}")
    end = 0
    for number, layer in enumerate(layers):
        if len(layer) != geometry.slices:
            raise FormatError(f"{where}: layer {number} has {len(layer)} slices, the geometry has {geometry.slices}")
        end = align(end, LAYER_ALIGNMENT)
        for index, span in enumerate(layer):
            if span.offset != align(end, SHARD_ALIGNMENT):
                raise FormatError(
                    f"{where}: layer {number}, slice {index} is at {span.offset}, "
                    f"must be at {align(end, SHARD_ALIGNMENT)}"
                )
            if not layout.payload_bytes(0) <= span.nbytes <= most:
                raise FormatError(
                    f"{where}: layer {number}, slice {index} has {span.nbytes} bytes, must have "
                    f"{layout.payload_bytes(0)} to {most}"
                )
            end = span.end
    if file_bytes != align(end, LAYER_ALIGNMENT):
        raise FormatError(f"{where}: {file_bytes} bytes, the shards need {align(end, LAYER_ALIGNMENT)}")


def required_resident(geometry: Geometry, has_lattice: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that every store holds in resident.bin, by name; the head's come on top."""
    hidden = (geometry.hidden,)
    spec = geometry.spec
    norm = "embedding_norm" if spec.norm_position is NormPosition.AFTER else "final_norm"
    parts = ("gamma",) if spec.norm_kind is NormKind.RMS else ("gamma", "beta")
    shapes: dict[str, tuple[int, ...]] = {f"{norm}.{part}": hidden for part in parts}
    if spec.positions is Positions.ROTARY:
        shapes["rotary.frequency"] = (geometry.head_width // 2,)
    scales = ("output.scale", "ffn_down.scale") if has_lattice else ()
    tensors = (*geometry.layer_tensors, *scales)
    shapes |= {f"layer.{layer}.{tensor}": hidden for layer in range(geometry.layers) for tensor in tensors}
    return shapes


def _check_resident(manifest: "Manifest") -> None:
    tensors = manifest.resident
    for name in tensors:
        text(name, RESIDENT_FILE, RESIDENT_NAME)
    ranges = ((tensor.span.offset, tensor.span.nbytes, f"{RESIDENT_FILE}: {name}") for name, tensor in tensors.items())
    check_apart(ranges, manifest.files[RESIDENT_FILE].nbytes, TENSOR_ALIGNMENT)
    has_lattice = any(bitwidth != EXACT_BITWIDTH for bitwidth in manifest.shards)
    for name, shape in required_resident(manifest.geometry, has_lattice).items():
        _check_shape(manifest, name, shape)
    if (image := manifest.description.image) is not None:
        hidden = manifest.geometry.hidden
        _check_shape(manifest, "cls_token", (hidden,))
        _check_shape(manifest, "patch.weight", (hidden, image.patch_features))
        _check_shape(manifest, "patch.bias", (hidden,))
    head = manifest.description.head
    features = manifest.geometry.hidden
    for layer in head.layers:
        rows = tensors[layer.bias].shape[0] if layer.bias in tensors and tensors[layer.bias].shape else 0
        _check_shape(manifest, layer.weight, (rows, features))
        _check_shape(manifest, layer.bias, (rows,))
        features = rows
    if head.labels and features != len(head.labels):
        raise FormatError(f"head: {len(head.labels)} labels for {features} outputs")


def _check_shape(manifest: "Manifest", name: str, shape: tuple[int, ...]) -> None:
    if name not in manifest.resident:
        raise FormatError(f"{RESIDENT_FILE}: tensor {name} is missing")
    found = manifest.resident[name].shape
    if found != shape:
        raise FormatError(f"{RESIDENT_FILE}: tensor {name} has shape {list(found)}, must have {list(shape)}")


def _check_row_tables(manifest: "Manifest") -> None:
    tables, description = manifest.row_tables, manifest.description
    expected = set() if description.image is not None else {"word"}
    if manifest.geometry.spec.positions is Positions.ABSOLUTE:
        expected.add("position")
    if description.family in FAMILIES_WITH_TOKEN_TYPES:
        expected.add("token_type")
    if tables.keys() != expected:
        raise FormatError(f"{EMBEDDINGS_FILE}: tables {sorted(tables)}, {description.family} needs {sorted(expected)}")
    for name, table in tables.items():
        if table.columns != manifest.geometry.hidden:
            raise FormatError(
                f"{EMBEDDINGS_FILE}: table {name} has {table.columns} columns, not {manifest.geometry.hidden}"
            )
    ranges = ((table.offset, table.nbytes, f"{EMBEDDINGS_FILE}: {name}") for name, table in tables.items())
    check_apart(ranges, manifest.files[EMBEDDINGS_FILE].nbytes, TENSOR_ALIGNMENT)
    positions: RowTable | None = tables.get("position")
    if positions is not None and description.position_offset + description.max_tokens > positions.rows:
        raise FormatError(
            f"max_tokens {description.max_tokens} needs more than the {positions.rows} positions of the table"
        )


def _check_templates(manifest: "Manifest") -> None:
    geometry, sequences = manifest.geometry, manifest.description.sequences
    for key, span in manifest.templates.items():
        if not 1 <= key.slices <= geometry.slices or key.sequence not in sequences:
            raise FormatError(f"{TEMPLATES_FILE}: {key}: no such width or sequence in this store")
        if not 1 <= span.nbytes <= 2 * MAX_FLATBUFFER_BYTES:
            raise FormatError(f"{TEMPLATES_FILE}: {key} has {span.nbytes} bytes")
    ranges = ((span.offset, span.nbytes, f"{TEMPLATES_FILE}: {key}") for key, span in manifest.templates.items())
    check_apart(ranges, manifest.files[TEMPLATES_FILE].nbytes, TENSOR_ALIGNMENT)
