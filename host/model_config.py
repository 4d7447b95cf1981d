"""A model's config.json, of any family, read and checked in one way."""

from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import TypeAdapter

from host.json_file import read_json
from shard_store.errors import CheckpointError, FormatError
from shard_store.geometry import Geometry


class ModelConfig(Protocol):
    """What every family's config can say of itself."""

    def unsupported(self) -> str | None:
        """The first option that would make the outputs silently wrong, as 'key is value, must be ...'; None if none."""

    def geometry(self, slices: int) -> Geometry:
        """The body cut in that many slices per layer. Raises FormatError for sizes that do not divide evenly."""


C = TypeVar("C", bound=ModelConfig)


def read_model_config(folder: Path, kind: type[C]) -> C:
    """Read config.json. Raises CheckpointError if it is missing, malformed, or has sizes or options not supported."""
    path = folder / "config.json"
    config = read_json(path, TypeAdapter(kind))
    if (problem := config.unsupported()) is not None:
        raise CheckpointError(f"{path}: {problem}")
    try:
        config.geometry(1)
    except FormatError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config
