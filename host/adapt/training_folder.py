"""The folder beside the output that holds an unfinished training, and what it was started with."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter

from host.adapt.options import AdaptOptions
from host.adapt.saved_state import sync
from host.checkpoint import Checkpoint
from host.json_file import read_json
from shard_store.errors import TrainingError

_SETTINGS_FILE = "settings.json"
_ADAPTER = TypeAdapter(dict[str, str])
_CHUNK_BYTES = 1 << 20
_MODEL_FILES = ("*.safetensors", "config.json", "tokenizer.json")


class TrainingFolder:
    """Made at the first start, found again by a rerun, removed when the output is in place. One run at a time has it.

    Raises:
        TrainingError: on entry, if another run is at work in it or it was started with other settings (one is named).
    """

    def __init__(self, out: Path, settings: Mapping[str, str]) -> None:
        self.path = out.with_name(f"{out.name}.training")
        self._settings = settings
        self._lock = -1

    def __enter__(self) -> "TrainingFolder":
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            self._claim()
            self._compare()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(f"{self.path}: another run is at work; wait for it or give another --out") from None

    def _compare(self) -> None:
        file = self.path / _SETTINGS_FILE
        if not file.exists():
            partial = file.with_suffix(".partial")
            partial.write_bytes(_ADAPTER.dump_json(dict(self._settings), indent=2))
            sync(partial)
            partial.replace(file)
        found = read_json(file, _ADAPTER)
        for name, value in self._settings.items():
            if found.get(name) != value:
                raise TrainingError(
                    f"{self.path}: was started with {name} {found.get(name)}, not {value}; "
                    "rerun with the same to continue it, or remove that folder to start anew"
                )

    def remove(self) -> None:
        """The training is over."""
        shutil.rmtree(self.path)


def settings_of(checkpoint: Checkpoint, train: Path, options: AdaptOptions) -> dict[str, str]:
    """Everything that the result of a training depends on, as text."""
    model_files = sorted(path for pattern in _MODEL_FILES for path in checkpoint.folder.glob(pattern))
    choices = " ".join(",".join(map(str, choice)) for choice in options.layer_choices)
    return {
        "checkpoint": _digest(*model_files),
        "training data": _digest(train),
        "--steps": str(options.steps),
        "--batch": str(options.batch),
        "--learning-rate": str(options.learning_rate),
        "--pooling": options.pooling.value if options.pooling else "unset",
        "--slices": str(options.slices or "unset"),
        "--seed": str(options.seed),
        "--max-tokens": str(options.max_tokens),
        "--precision": options.precision.resolved().value,
        "--layer-choice": choices or "unset",
    }


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()[:16]
