"""The record of the agent that runs in a folder: one agent at a time, and nothing of it is left when it ends."""

import fcntl
import json
import os
from pathlib import Path

from shard_store.errors import DeviceError

RECORD_FILE = "agent.json"
LOCK_FILE = "agent.lock"


class AgentRecord:
    """`agent.json` (process number, URL, store), and a lock that the kernel lets go of however the process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / RECORD_FILE
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DeviceError(f"an agent already runs in {folder}; stop it with `sti agent stop`") from error
        self._path.unlink(missing_ok=True)  # of one that was killed

    def write(self, url: str, store: Path) -> None:
        """Say where the agent listens and which store it serves."""
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps({"pid": os.getpid(), "url": url, "store": store.name}), "utf-8")
        temporary.replace(self._path)

    def close(self) -> None:
        """Remove the record, then let the next agent in."""
        self._path.unlink(missing_ok=True)
        os.close(self._lock)

    def __enter__(self) -> "AgentRecord":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
