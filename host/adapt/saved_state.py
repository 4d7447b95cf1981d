"""The state of an unfinished training: one file, written aside and renamed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from host.weights import Float32Array
from shard_store.errors import TrainingError


@dataclass(frozen=True, slots=True)
class SavedState:
    """Weights and the optimizer's means after some steps."""

    step: int  # steps done
    values: Mapping[str, Float32Array]


def save_state(path: Path, state: SavedState) -> None:
    """Replace the file by this state."""
    partial = path.with_suffix(".partial")
    save_file({name: np.ascontiguousarray(value) for name, value in state.values.items()}, partial,
              {"step": str(state.step)})  # fmt: skip
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def load_state(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> SavedState:
    """Read a state.

    Raises:
        TrainingError: damaged, or not of these tensors.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            step = int((file.metadata() or {})["step"])
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: not a saved training ({error}); remove {path.parent} to start anew") from error
    if {name: value.shape for name, value in values.items()} != dict(shapes):
        raise TrainingError(f"{path}: the training of another model; remove {path.parent} to start anew")
    return SavedState(step, values)


def sync(path: Path) -> None:
    """Have a file or the names of a folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
