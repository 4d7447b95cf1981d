"""The files of the local device: a directory of this machine."""

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from host.device import Sent
from shard_store.errors import DeviceError

_CHUNK_BYTES = 1 << 20


def default_root() -> Path:
    """$STI_HOME, or the folder `sti` where this user's programs keep their data."""
    if home := os.environ.get("STI_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "sti"


class LocalFiles:
    """Files below one directory. Paths that lead out of it are refused."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def files(self, folder: str) -> Mapping[str, int]:
        """Size of each file of a folder, by name."""
        return {entry.name: entry.stat().st_size for entry in self._entries(folder) if entry.is_file()}

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders in a folder."""
        return [entry.name for entry in self._entries(folder) if entry.is_dir()]

    def _entries(self, folder: str) -> list[Path]:
        path = self.path(folder)
        try:
            return sorted(path.iterdir()) if path.is_dir() else []
        except OSError as error:
            raise _failed("list", path, error) from error

    def sha256(self, path: str) -> str:
        """SHA-256 of a file."""
        digest = hashlib.sha256()
        target = self.path(path)
        try:
            with target.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise _failed("read", target, error) from error
        return digest.hexdigest()

    def free_bytes(self) -> int:
        """Space left in the file system."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise _failed("use", self.root, error) from error

    def put(self, source: Path, path: str, sent: Sent) -> None:
        """Copy a file, and have it on the disk before returning."""
        target = self.path(path)
        done = 0
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as original, target.open("wb") as copy:
                while chunk := original.read(_CHUNK_BYTES):
                    copy.write(chunk)
                    done += len(chunk)
                    sent(done)
                copy.flush()
                os.fsync(copy.fileno())
        except OSError as error:
            raise _failed("write", target, error) from error

    def rename(self, path: str, new_path: str) -> None:
        """Rename a file or a folder."""
        old, new = self.path(path), self.path(new_path)
        try:
            old.replace(new)
        except OSError as error:
            raise _failed(f"rename to {new.name}", old, error) from error

    def remove(self, path: str) -> None:
        """Remove a file or a folder."""
        target = self.path(path)
        try:
            if target.is_dir():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", target, error) from error

    def path(self, relative: str) -> Path:
        """Where a file of the device really is. Raises DeviceError for a path that leads elsewhere."""
        parts = PurePosixPath(relative)
        if not parts.parts or parts.is_absolute() or ".." in parts.parts:
            raise DeviceError(f"{relative!r} is not a path inside {self.root}")
        return self.root / parts


def _failed(action: str, path: Path, error: OSError) -> DeviceError:
    return DeviceError(f"cannot {action} {path}: {error.strerror or error}")
