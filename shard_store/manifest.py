"""The manifest: what a store holds and where (docs/format.md, "manifest.json")."""

from collections.abc import Mapping
from dataclasses import dataclass

from shard_store.errors import PlanError
from shard_store.generation import Generation
from shard_store.geometry import Geometry, ShardKey
from shard_store.head import Head
from shard_store.image_input import ImageInput
from shard_store.manifest_checks import check_description, check_manifest
from shard_store.profile import Profile
from shard_store.row_table import RowTable
from shard_store.span import Span
from shard_store.template import TemplateKind
from shard_store.vocabulary_head import VocabularyHead

DEFAULT_SEQUENCES = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Size and SHA-256 (hexadecimal) of a file."""

    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ResidentTensor:
    """A float32 tensor of resident.bin."""

    shape: tuple[int, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class TemplateKey:
    """Names one template."""

    kind: TemplateKind
    slices: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.kind.value} template of {self.slices} slices, sequence {self.sequence}"


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What is known of a model before its data is written.

    family: one of KNOWN_FAMILIES; sequences: token counts for which there are templates, ascending; max_tokens: the
    longest input; position_offset: row of the position table for the first token (2 for RoBERTa).
    """

    model: str
    family: str
    geometry: Geometry
    head: Head
    max_tokens: int
    sequences: tuple[int, ...] = DEFAULT_SEQUENCES
    position_offset: int = 0
    image: ImageInput | None = None  # of a model that reads images
    generation: Generation | None = None  # of a model that generates text

    def __post_init__(self) -> None:
        check_description(self)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A whole store. Constructing one checks every rule of the format that concerns the manifest alone."""

    description: ModelDescription
    files: Mapping[str, StoredFile]
    shards: Mapping[int, tuple[tuple[Span, ...], ...]]  # by bitwidth, layer and slice
    resident: Mapping[str, ResidentTensor]
    row_tables: Mapping[str, RowTable]
    templates: Mapping[TemplateKey, Span]
    vocabulary_head: VocabularyHead | None = None  # of a model that generates text
    profile: Profile | None = None

    def __post_init__(self) -> None:
        check_manifest(self)

    @property
    def geometry(self) -> Geometry:
        """Sizes of the transformer body."""
        return self.description.geometry

    @property
    def bitwidths(self) -> tuple[int, ...]:
        """Bitwidths at which every shard is stored, ascending."""
        return tuple(sorted(self.shards))

    def shard_span(self, key: ShardKey) -> Span:
        """Where a shard lies in `SHARD_FILES[key.bitwidth]`. Raises PlanError if the store does not have it."""
        geometry = self.geometry
        if key.bitwidth not in self.shards:
            raise PlanError(f"{key}: the store has only {', '.join(map(str, self.bitwidths))} bits")
        if not (0 <= key.layer < geometry.layers and 0 <= key.slice < geometry.slices):
            raise PlanError(f"{key}: the store has {geometry.layers} layers of {geometry.slices} slices")
        return self.shards[key.bitwidth][key.layer][key.slice]

    def template_span(self, key: TemplateKey) -> Span:
        """Where a template lies in templates.bin. Raises PlanError if the store does not have it."""
        if key not in self.templates:
            raise PlanError(f"the store has no {key}; package the model with this width and sequence")
        return self.templates[key]
