"""The safetensors files of a model directory: names and shapes at once, values one tensor at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401 - gives numpy the bfloat16 that safetensors asks it for
import numpy as np
from pydantic import BaseModel, TypeAdapter
from safetensors import SafetensorError, safe_open

from host.json_file import read_json
from host.weights import Float32Array
from shard_store.errors import CheckpointError

FLOAT_TYPES = ("F32", "F16", "BF16")
# LayerNorm parameters as the first releases of BERT named them
OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))


class _ShardIndex(BaseModel):
    """model.safetensors.index.json of a model that is split over files."""

    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where one tensor lies."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Every tensor of a model directory, by its name without the family's prefix."""

    folder: Path
    tensors: Mapping[str, StoredTensor]

    def check(self, shapes: Mapping[str, tuple[int, ...]], unused: tuple[str, ...]) -> None:
        """Compare with the shapes that must be there; further tensors may only start with one of the unused prefixes.

        Raises:
            CheckpointError: a tensor is missing, unexpected, or of another shape or of a type that is not float.
        """
        for name, shape in shapes.items():
            tensor = self.tensors.get(name)
            if tensor is None:
                raise CheckpointError(f"{self.folder}: tensor {name}: expected {list(shape)}, found none")
            if tensor.shape != shape:
                found = list(tensor.shape)
                raise CheckpointError(f"{tensor.path}: tensor {tensor.key}: expected {list(shape)}, found {found}")
            if tensor.dtype not in FLOAT_TYPES:
                expected = ", ".join(FLOAT_TYPES)
                raise CheckpointError(
                    f"{tensor.path}: tensor {tensor.key}: expected one of {expected}, found {tensor.dtype}"
                )
        for name, tensor in self.tensors.items():
            if name not in shapes and not name.startswith(unused):
                raise CheckpointError(
                    f"{tensor.path}: tensor {tensor.key}: expected no such tensor, found shape {list(tensor.shape)}"
                )

    def read(self, name: str) -> Float32Array:
        """Read one tensor as float32.

        Raises:
            CheckpointError: unreadable, or a value is infinite or not a number.
        """
        tensor = self.tensors[name]
        try:
            with safe_open(tensor.path, framework="numpy") as file:
                values = np.ascontiguousarray(file.get_tensor(tensor.key), dtype=np.float32)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{tensor.path}: tensor {tensor.key} cannot be read ({error})") from error
        bad = values.size - int(np.count_nonzero(np.isfinite(values)))
        if bad:
            raise CheckpointError(
                f"{tensor.path}: tensor {tensor.key}: expected finite values, found {bad} infinite or NaN"
            )
        return values


def open_weights(folder: Path, prefix: str) -> WeightFiles:
    """Index the weight files of a folder; a name may carry the family's prefix or not.

    Raises:
        CheckpointError: no safetensors files, a damaged one, or two tensors for one name.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_paths(folder):
        for tensor in _stored_tensors(path):
            name = tensor.key.removeprefix(prefix)
            for old, new in OLD_NAMES:
                if name.endswith(old):
                    name = name.removesuffix(old) + new
            if name in tensors:
                raise CheckpointError(f"{path}: tensor {tensor.key}: expected once, found again as {tensors[name].key}")
            tensors[name] = tensor
    return WeightFiles(folder, tensors)


def _weight_paths(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(read_json(index, TypeAdapter(_ShardIndex)).weight_map.values()))
        outside = next((name for name in names if Path(name).name != name), None)
        if outside is not None:
            raise CheckpointError(f"{index}: file name {outside!r} must lie in the same directory")
        return [folder / name for name in names]
    found = "only pytorch_model.bin" if any(folder.glob("pytorch_model*.bin")) else "none"
    raise CheckpointError(
        f"{folder}: expected model.safetensors, found {found}; "
        "write it with AutoModel...from_pretrained(DIR).save_pretrained(DIR, safe_serialization=True)"
    )


def _stored_tensors(path: Path) -> list[StoredTensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            parts = [(key, file.get_slice(key)) for key in file.keys()]  # noqa: SIM118 - not a mapping
            return [StoredTensor(path, key, tuple(part.get_shape()), part.get_dtype()) for key, part in parts]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a complete safetensors file ({error}); fetch it again") from error
