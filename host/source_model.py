"""A model to package, whatever its family: what a packager asks of every checkpoint, and how one is opened."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from host.checkpoint import load_checkpoint
from host.encoder_config import read_model_type
from host.families import FAMILIES
from host.gpt2_checkpoint import load_gpt2
from host.head import Head
from host.hub import locate
from host.llama_checkpoint import load_llama
from host.vision_checkpoint import load_vision_checkpoint
from host.weights import Float32Array, LayerWeights, TableArray
from shard_store.errors import CheckpointError
from shard_store.generation import Generation
from shard_store.geometry import Geometry
from shard_store.image_input import ImageInput

_LOADERS: Mapping[str, Callable[[Path], "SourceModel"]] = {
    "vit": load_vision_checkpoint,
    "gpt2": load_gpt2,
    "llama": load_llama,
    "qwen2": load_llama,
}


class SourceModel(Protocol):
    """A checked model directory; weights are read from disk when asked for."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        ...

    @property
    def family(self) -> str:
        """One of the manifest's families."""
        ...

    @property
    def head(self) -> Head:
        """From the last hidden states to an answer."""
        ...

    @property
    def tokenizer_json(self) -> bytes:
        """The tokenizer; an empty object for a model without text."""
        ...

    @property
    def position_offset(self) -> int:
        """The row of the position table for the first token."""
        ...

    @property
    def max_tokens(self) -> int:
        """The longest input."""
        ...

    @property
    def image(self) -> ImageInput | None:
        """How images are read, if they are."""
        ...

    @property
    def generation(self) -> Generation | None:
        """What generating text needs to know, if the model does that."""
        ...

    def geometry(self, slices: int | None = None) -> Geometry:
        """The body, by default in as many slices per layer as there are KV heads."""
        ...

    def layer(self, index: int) -> LayerWeights:
        """Read one layer."""
        ...

    def row_tables(self) -> dict[str, TableArray]:
        """Read the embedding tables, by name."""
        ...

    def tensors(self) -> dict[str, Float32Array]:
        """Read what stays in memory beside layers and head, by name."""
        ...

    def vocabulary_head(self) -> Float32Array | None:
        """Read the matrix (vocabulary, hidden) of a language model."""
        ...


def open_model(source: str | Path) -> SourceModel:
    """Open a local model directory, or fetch one from the Hugging Face hub, and check everything but the values.

    Raises:
        CheckpointError: missing, incomplete, malformed, or of a family that is not known.
    """
    folder = locate(source)
    model_type = read_model_type(folder)
    if any(model_type in family.model_types for family in FAMILIES):
        return load_checkpoint(folder)
    if model_type not in _LOADERS:
        known = ", ".join((*(name for family in FAMILIES for name in family.model_types), *_LOADERS))
        raise CheckpointError(f"config.json: model_type {model_type!r} is not supported; known: {known}")
    return _LOADERS[model_type](folder)
