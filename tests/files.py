"""Large files for tests, made and hashed piece by piece."""

import hashlib
import random
from pathlib import Path

from shard_store.manifest import StoredFile

_CHUNK_BYTES = 1 << 20


def random_file(path: Path, nbytes: int, seed: int = 0) -> None:
    """No two megabytes of it are the same, and none can be compressed much."""
    block = random.Random(seed).randbytes(_CHUNK_BYTES)
    with path.open("wb") as file:
        for start in range(0, nbytes, _CHUNK_BYTES):
            chunk = start.to_bytes(8, "little") + block[8:]
            file.write(chunk[: nbytes - start])


def stored_file(path: Path) -> StoredFile:
    """Size and hash of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return StoredFile(path.stat().st_size, digest.hexdigest())
