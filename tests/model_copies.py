"""Copies of the tiny golden checkpoints with something changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy.typing as npt
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parent / "golden"

Tensors: TypeAlias = dict[str, npt.NDArray[Any]]


def copy_model(name: str, folder: Path) -> Path:
    """Copy a golden checkpoint into a new folder; return the copy."""
    target = folder / name
    shutil.copytree(GOLDEN / name, target)
    return target


def edit_json(path: Path, **changes: object) -> None:
    """Set top-level keys of a JSON file; a value of ... removes the key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def edit_tensors(model: Path, edit: Callable[[Tensors], Tensors]) -> None:
    """Rewrite model.safetensors with what edit returns."""
    path = model / "model.safetensors"
    save_file(edit(load_file(path)), path)
