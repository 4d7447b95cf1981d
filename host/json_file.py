"""JSON files of a model directory, read into typed values."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from shard_store.errors import CheckpointError

T = TypeVar("T")


def read_json(path: Path, adapter: TypeAdapter[T]) -> T:
    """Read one JSON file into the adapter's type.

    Raises:
        CheckpointError: the file is missing or unreadable, is no JSON, or breaks the type (the first mistake is named).
    """
    try:
        return adapter.validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give a complete model directory") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: {place}: {first['msg'].splitlines()[0]}") from error
