"""The packager: a checkpoint, cut into shards at every bitwidth, as one store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from host.capture import Capture, read_texts
from host.checkpoint import Checkpoint
from host.encode import LayerEncoder
from host.encoder_config import ProblemType
from host.graphs import layer_templates
from host.source_model import SourceModel, open_model
from host.weights import LayerWeights
from shard_store.errors import CheckpointError, FormatError
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, LATTICE_BITWIDTHS, Geometry
from shard_store.head import Head, HeadLayer, Pooling, Scores
from shard_store.manifest import ModelDescription
from shard_store.row_table import RowType
from shard_store.template import TemplateKind
from shard_store.vocabulary_head import head_bitwidth
from shard_store.writer import StoreWriter

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all

_MAX_SEQUENCE = 4096
_TABLE_ROWS = 4096  # encoded at a time
_SCORES = {
    ProblemType.SINGLE_LABEL: Scores.SOFTMAX,
    ProblemType.MULTI_LABEL: Scores.SIGMOID,
    ProblemType.REGRESSION: Scores.NONE,
}


@dataclass(frozen=True, slots=True)
class PackageOptions:
    """What to put into a store."""

    bitwidths: tuple[int, ...] = BITWIDTHS
    slices: int | None = None  # None: one per attention head
    sequences: tuple[int, ...] = (16, 32, 64, 128, 256)
    calibrate: Path | None = None  # unlabelled texts, one a line
    name: str | None = None  # of the model; None: the last part of its directory or hub id

    def __post_init__(self) -> None:
        if not self.bitwidths or (unknown := sorted(set(self.bitwidths) - set(BITWIDTHS))):
            known = ", ".join(map(str, BITWIDTHS))
            raise FormatError(f"bits {unknown[0] if self.bitwidths else 'none'}: name some of {known}")
        for sequence in self.sequences:
            if not 1 <= sequence <= _MAX_SEQUENCE:
                raise FormatError(f"sequence length {sequence} must be 1 to {_MAX_SEQUENCE}")
        if not self.sequences:
            raise FormatError("no sequence lengths: name at least one, such as 64")


@dataclass(frozen=True, slots=True)
class PackageReport:
    """What was written."""

    store: Path
    model: str
    family: str
    layers: int
    slices: int
    bitwidths: tuple[int, ...]
    sequences: tuple[int, ...]
    calibrated_on: int  # texts
    store_bytes: int


def package(source: str, out: Path, options: PackageOptions, progress: Progress) -> PackageReport:
    """Cut a checkpoint into a store at `out`, replacing an older store there only when all is written.

    Raises CheckpointError for a model that cannot be packaged, FormatError for options that do not fit it.
    """
    options = replace(options, bitwidths=tuple(sorted(set(options.bitwidths))))
    checkpoint = open_model(source)
    if options.calibrate and not isinstance(checkpoint, Checkpoint):
        raise CheckpointError(
            f"--calibrate: not possible for {checkpoint.family}, only for text encoders; leave it out"
        )
    geometry = checkpoint.geometry(options.slices)
    texts = read_texts(options.calibrate) if options.calibrate else []
    description = _describe(checkpoint, geometry, options.sequences, options.name or Path(source).resolve().name)
    with StoreWriter(out, description, options.bitwidths) as writer:
        writer.add_tokenizer(checkpoint.tokenizer_json)
        _add_embeddings(writer, checkpoint)
        _add_head(writer, checkpoint, options.bitwidths)
        _add_templates(writer, description, options.bitwidths, progress)
        _add_layers(writer, checkpoint, geometry, options, texts, progress=progress)
        writer.finish()
    return PackageReport(
        out, description.model, description.family, geometry.layers, geometry.slices,
        options.bitwidths, description.sequences, len(texts),
        sum(file.stat().st_size for file in out.iterdir()),
    )  # fmt: skip


def _describe(checkpoint: SourceModel, geometry: Geometry, sequences: Sequence[int], name: str) -> ModelDescription:
    layers = tuple(
        HeadLayer(f"head.{index}.weight", f"head.{index}.bias", dense.activation)
        for index, dense in enumerate(checkpoint.head.dense)
    )
    head = checkpoint.head
    scores = _SCORES[head.problem_type] if head.problem_type else Scores.SOFTMAX
    return ModelDescription(
        model=name,
        family=checkpoint.family,
        geometry=geometry,
        head=Head(head.kind, head.pooling or Pooling.MEAN, head.normalize, head.labels, layers, scores),
        sequences=_sequences(checkpoint, sequences),
        max_tokens=checkpoint.max_tokens,
        position_offset=checkpoint.position_offset,
        image=checkpoint.image,
        generation=checkpoint.generation,
    )


def _sequences(checkpoint: SourceModel, asked: Sequence[int]) -> tuple[int, ...]:
    """Token counts for templates: an image has one; text that is generated also needs one token at a time."""
    if checkpoint.image is not None:
        return (checkpoint.max_tokens,)
    usable = {min(sequence, checkpoint.max_tokens) for sequence in asked}
    return tuple(sorted(usable | {1} if checkpoint.generation is not None else usable))


def _add_embeddings(writer: StoreWriter, checkpoint: SourceModel) -> None:
    for name, table in checkpoint.row_tables().items():
        chunks = (table[start : start + _TABLE_ROWS] for start in range(0, len(table), _TABLE_ROWS))
        writer.add_row_table(name, table.shape[1], RowType(table.dtype.name), chunks)
    for name, values in checkpoint.tensors().items():
        writer.add_resident(name, values)


def _add_head(writer: StoreWriter, checkpoint: SourceModel, bitwidths: Sequence[int]) -> None:
    weight = checkpoint.vocabulary_head()
    if weight is not None:
        writer.add_vocabulary_head(weight, {head_bitwidth(bitwidth) for bitwidth in bitwidths})
    for index, dense in enumerate(checkpoint.head.dense):
        writer.add_resident(f"head.{index}.weight", dense.weight)
        writer.add_resident(f"head.{index}.bias", dense.bias)


def _add_templates(
    writer: StoreWriter, description: ModelDescription, bitwidths: Sequence[int], progress: Progress
) -> None:
    """A template for every width and sequence length, of the kinds that the bitwidths need."""
    kinds = {TemplateKind.FLOAT32 if bitwidth == EXACT_BITWIDTH else TemplateKind.INT8 for bitwidth in bitwidths}
    shapes = [(slices + 1, seq) for slices in range(description.geometry.slices) for seq in description.sequences]
    for done, (slices, sequence) in enumerate(shapes):
        progress("templates", done, len(shapes))
        for template in layer_templates(description.geometry, slices, sequence):
            if template.kind in kinds:
                writer.add_template(template)
    progress("templates", len(shapes), len(shapes))


def _add_layers(
    writer: StoreWriter, checkpoint: SourceModel, geometry: Geometry, options: PackageOptions, texts: Sequence[str],
    *, progress: Progress,
) -> None:  # fmt: skip
    bitwidths = options.bitwidths
    capture = Capture(checkpoint, geometry, texts) if texts and isinstance(checkpoint, Checkpoint) else None
    lattice = set(bitwidths) & set(LATTICE_BITWIDTHS)
    steps = geometry.layers * len(bitwidths)
    for layer in range(geometry.layers):
        weights = checkpoint.layer(layer)
        encoder = LayerEncoder(layer, weights, geometry, capture.advance(weights) if capture else None)
        scales = encoder.shared_scales() if lattice else {}
        _add_layer_tensors(writer, layer, weights, geometry)
        for name, values in scales.items():
            writer.add_resident(f"layer.{layer}.{name}.scale", values)
        for done, bitwidth in enumerate(bitwidths):
            progress("shards", layer * len(bitwidths) + done, steps)
            for key, payload in encoder.shards(bitwidth, scales):
                writer.add_shard(key, payload)
    progress("shards", steps, steps)


def _add_layer_tensors(writer: StoreWriter, layer: int, weights: LayerWeights, geometry: Geometry) -> None:
    for name in geometry.layer_tensors:
        part, _, kind = name.rpartition(".")
        writer.add_resident(f"layer.{layer}.{name}", getattr(getattr(weights, part), kind))
