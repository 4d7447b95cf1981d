"""The files of the local device: a directory of this machine."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from host.device import Sent, Transfer
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

    def prepare(self, folder: str) -> None:
        """Have a folder."""
        path = self.path(folder)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _failed("use", path, error) from error

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

    def sha256(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 of each of the files."""
        return [self._sha256(self.path(path)) for path in paths]

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
        except OSError as error:
            raise _failed("read", path, error) from error
        return digest.hexdigest()

    def free_bytes(self) -> int:
        """Space left in the file system."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise _failed("use", self.root, error) from error

    def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
        """Copy files, and have them on the disk before returning."""
        done = 0
        for transfer in transfers:
            for nbytes in self._copy(transfer):
                done += nbytes
                sent(done)

    def _copy(self, transfer: Transfer) -> Iterator[int]:
        target = self.path(transfer.path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with transfer.source.open("rb") as original, target.open("r+b" if transfer.start else "wb") as copy:
                original.seek(transfer.start)
                copy.seek(transfer.start)
                while chunk := original.read(_CHUNK_BYTES):
                    copy.write(chunk)
                    yield len(chunk)
                copy.truncate()
                copy.flush()
                os.fsync(copy.fileno())
        except OSError as error:
            raise _failed("write", target, error) from error

    def rename(self, moves: Sequence[tuple[str, str]]) -> None:
        """Rename files or folders."""
        for path, new_path in moves:
            old, new = self.path(path), self.path(new_path)
            try:
                new.parent.mkdir(parents=True, exist_ok=True)
                old.replace(new)
            except OSError as error:
                raise _failed(f"rename to {new.name}", old, error) from error

    def link(self, path: str, target: str) -> None:
        """Let a path lead to a folder."""
        link = self.path(path)
        new = link.with_name(f".{link.name}.new")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.relpath(self.path(target), link.parent), target_is_directory=True)
            new.replace(link)
        except OSError as error:
            raise _failed("switch", link, error) from error

    def target(self, path: str) -> str | None:
        """The folder that a path leads to."""
        link = self.path(path)
        if not link.is_symlink():
            return None
        return os.path.relpath(os.path.normpath(link.parent / link.readlink()), self.root)

    def remove(self, path: str) -> None:
        """Remove a file or a folder."""
        target = self.path(path)
        try:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        except OSError as error:
            raise _failed("remove", target, error) from error

    def flush(self) -> None:
        """Nothing is left to do: `put` waits for the disk."""

    def path(self, relative: str) -> Path:
        """Where a file of the device really is. Raises DeviceError for a path that leads elsewhere."""
        parts = PurePosixPath(relative)
        if not parts.parts or parts.is_absolute() or ".." in parts.parts:
            raise DeviceError(f"{relative!r} is not a path inside {self.root}")
        return self.root / parts


def _failed(action: str, path: Path, error: OSError) -> DeviceError:
    return DeviceError(f"cannot {action} {path}: {error.strerror or error}")
