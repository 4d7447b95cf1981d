"""Where a model directory comes from: the local disk, or the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from shard_store.errors import CheckpointError

NEEDED_FILES = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "*_Pooling/config.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(source: str | Path) -> Path:
    """Return the local directory of a model; a directory that exists wins over a hub id of the same name.

    Raises:
        CheckpointError: nothing there, or the hub cannot be reached or has no such model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{source}: is a file; give the directory that holds config.json and model.safetensors")
    if isinstance(source, Path) or _is_written_as_path(source):
        raise CheckpointError(f"{source}: no such directory; give a model directory or a Hugging Face id (owner/name)")
    return _download(source)


def _is_written_as_path(source: str) -> bool:
    """Whether the text cannot be a hub id, or starts with a folder that exists here."""
    if not HUB_ID.fullmatch(source):
        return True
    return "/" in source and Path(source).parent.is_dir()


def _download(hub_id: str) -> Path:
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(NEEDED_FILES)))
    except Exception as error:  # the client lets its HTTP library's own errors through, and that library has changed
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(
            f"{hub_id}: not a local directory, and not fetched from the Hugging Face hub: {reason}"
        ) from error
