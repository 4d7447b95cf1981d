"""The files of a device: shell commands that toybox and coreutils both have, and the sync service for small files."""

import posixpath
import secrets
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO

from host.adb.file_system import check_file_system
from host.adb.line import AdbLine
from host.adb.shell import ShellResult
from host.adb.stream import StreamClosed
from host.adb.sync import Refusal, SyncSession
from host.device import Sent, Transfer
from shard_store.errors import ConnectionLost, DeviceError

DEFAULT_FOLDER = "/data/local/tmp/sti"

_SMALL_BYTES = 1 << 20  # such files go several at a time, and from the start
_SEGMENT_BYTES = 64 << 20
_CHUNK_BYTES = (1 << 20) - 5  # fills one message of the link
_PATIENCE_S = 60.0
_FOR_EVER_S = 1800.0  # reading or flushing gigabytes; a device that is gone is noticed long before
_REMEDIES = {
    "No space left": "remove something there, see `sti push --list` and `--gc`",
    "Permission denied": "choose a --root below /data/local/tmp, where adb's shell may write",
    "Operation not permitted": "choose a --root below /data/local/tmp, where adb's shell may write",
    "Read-only file system": "choose a --root below /data/local/tmp",
}
# Debian's sha256sum does without the CPU's instructions for it, but openssl takes longer to start.
_FASTER_HASH = "if command -v openssl > /dev/null; then sha256sum() { openssl dgst -sha256 -r; }; fi\n"
_FEW = 8
# A push that was cut off may have left its `cat` behind, with data still to write, and files on their way.
_QUIET = """
rm -rf ./.incoming-*
for fd in /proc/[0-9]*/fd/1; do
  for part in ./*.part ./.[!.]*.part; do
    if [ -e "$part" ] && [ "$fd" -ef "$part" ]; then
      pid=${fd#/proc/}; pid=${pid%%/*}; kill -9 "$pid"
      n=0; while [ -e "/proc/$pid/fd/1" ] && [ $n -lt 50 ]; do n=$((n + 1)); sleep 0.1; done
    fi
  done
done
true
"""
_INCOMING = ".incoming-"
_MOVE_UP = """
for file in ./* ./.[!.]* ./..?*; do
  if [ -e "$file" ]; then set -- "$@" "$file"; fi
done
mv -f "$@" .. && rmdir "$PWD"
"""


class AdbFiles:
    """Files below one folder of a device. Paths that lead out of it are refused."""

    def __init__(self, line: AdbLine, folder: str = DEFAULT_FOLDER) -> None:
        if not folder.startswith("/") or folder.rstrip("/") == "":
            raise DeviceError(f"{folder!r} cannot be the folder of a device; name one such as {DEFAULT_FOLDER}")
        self.line = line
        self.folder = posixpath.normpath(folder)

    def prepare(self, folder: str) -> None:
        """Have a folder, on storage that can be trusted, in which no earlier push still writes."""
        path = self.path(folder)
        self._do(f"use {self.folder}", f"mkdir -p {path}")
        check_file_system(self._do("read /proc/mounts", f"cd {path} && pwd -P && cat /proc/mounts").text)
        self._do("stop an earlier push", "sh", f"cd {path} || exit 1\n{_QUIET}".encode())

    def files(self, folder: str) -> Mapping[str, int]:
        """Size of each file of a folder, by name."""
        path = self.path(folder)
        find = "find . -mindepth 1 -maxdepth 1 -type f -exec stat -c '%s %n' {} +"
        lines = self._do(f"list {folder}", f"[ -d {path} ] || exit 0; cd {path} && {find}").text.splitlines()
        pairs = (line.split(" ", 1) for line in lines)
        return {name.removeprefix("./"): int(nbytes) for nbytes, name in pairs}

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders in a folder, links to folders included."""
        path = self.path(folder)
        find = "find -L . -mindepth 1 -maxdepth 1 -type d"
        lines = self._do(f"list {folder}", f"[ -d {path} ] || exit 0; cd {path} && {find}").text.splitlines()
        return sorted(name.removeprefix("./") for name in lines)

    def sha256(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 of each of the files, by the device's own tools."""
        if not paths:
            return []
        faster = _FASTER_HASH if len(paths) <= _FEW else ""
        script = faster + "\n".join(f"sha256sum < {self.path(path)} || exit" for path in paths)
        lines = self._do("read its files", "sh", script.encode(), timeout_s=None).text.splitlines()
        hashes = [line[:64] for line in lines]
        if len(hashes) != len(paths) or not all(len(found) == 64 for found in hashes):
            raise DeviceError("the device's sha256sum is not understood; Android 8 or newer is needed")
        return hashes

    def free_bytes(self) -> int:
        """Space left in the file system."""
        folder = shlex.quote(self.folder)
        lines = self._do(f"use {self.folder}", f"mkdir -p {folder} && df -Pk {folder}").text.splitlines()
        try:
            return int(lines[-1].split()[3]) * 1024
        except (IndexError, ValueError) as error:
            raise DeviceError(f"the device's df is not understood: {lines[-1:]}") from error

    def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
        """Copy files: large ones appended to, by `cat`; small ones by the sync service, without waiting for each."""
        done = 0
        for small, group in _groups(transfers):
            put = self._put_small if small else self._put_large
            done = put(group, done, sent)

    def _put_small(self, transfers: Sequence[Transfer], done: int, sent: Sent) -> int:
        """Send files to a folder of their own, then move them where they belong.

        A sync session whose connection broke removes, when adbd notices, the file that it was writing: by then another
        session may have written one of that name.
        """
        parent = posixpath.dirname(transfers[0].path)
        incoming = posixpath.join(parent, _INCOMING + secrets.token_hex(4))
        with self._renewed():
            session = SyncSession(self.line.connection().open("sync:"))
            try:
                for transfer in transfers:
                    target = posixpath.join(incoming, posixpath.basename(transfer.path))
                    done += session.send(transfer.source, self._full(target))
                    sent(done)
                session.finish()
            except Refusal as error:
                raise self._refused("write", str(error)) from error
            finally:
                session.close()
        self._do(f"write {parent or self.folder}", "sh", f"cd {self.path(incoming)} || exit 1\n{_MOVE_UP}".encode())
        return done

    def _put_large(self, transfers: Sequence[Transfer], done: int, sent: Sent) -> int:
        (transfer,) = transfers
        with self._renewed(), transfer.source.open("rb") as source:
            source.seek(transfer.start)
            at, size = transfer.start, transfer.source.stat().st_size
            while at < size:
                nbytes = min(_SEGMENT_BYTES, size - at)
                self._append(source, nbytes, transfer.path, at, lambda part, before=done: sent(before + part))  # type: ignore[misc]
                at, done = at + nbytes, done + nbytes
        return done

    def _append(self, source: BinaryIO, nbytes: int, path: str, start: int, sent: Sent) -> None:
        """Send a segment, and wait until it is written.

        Adbd says OKAY more often than there are messages, so that without waiting it would take, and hold in its
        memory, whatever is sent faster than it can be written.
        """
        target = self.path(path)
        unchanged = f'[ "$(stat -c %s {target})" -eq {start} ] || {{ echo changed >&2; exit 1; }}; exec cat >> {target}'
        command = self.line.connection().start(unchanged if start else f"exec cat > {target}")
        left = nbytes
        with closing(command):
            try:
                while left and (chunk := source.read(min(left, _CHUNK_BYTES))):
                    command.write(chunk)
                    left -= len(chunk)
                    sent(nbytes - left)
                command.close_stdin()
            except StreamClosed:
                pass  # its result tells why
            result = command.wait(_PATIENCE_S)
        if result.exit_code:
            raise self._refused(f"write {path}", result.reason)

    def rename(self, moves: Sequence[tuple[str, str]]) -> None:
        """Rename files or folders."""
        lines = [f"mv -f {self.path(old)} {self.path(new)} || exit" for old, new in moves]
        self._do("rename its files", "sh", "\n".join(lines).encode())

    def link(self, path: str, target: str) -> None:
        """Let a path lead to a folder, in one rename.

        Moved into the parent, for toybox's `mv` takes a link to a folder that it shall replace for the folder itself.
        """
        parent, name = posixpath.split(path)
        switch = f"{parent}/.switch"
        new, home = self.path(f"{switch}/{name}"), self.path(parent)
        relative = shlex.quote(posixpath.relpath(target, parent))
        make = f"mkdir -p {self.path(switch)} && rm -f {new} && ln -s {relative} {new}"
        self._do(f"switch {path}", f"{make} && mv -f {new} {home}/ && rmdir {self.path(switch)}")

    def target(self, path: str) -> str | None:
        """The folder that a path leads to."""
        link = self.path(path)
        relative = self._do(f"read {path}", f"[ ! -L {link} ] || readlink {link}").text.rstrip("\n")
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), relative)) if relative else None

    def remove(self, path: str) -> None:
        """Remove a file, a link or a folder."""
        self._do(f"remove {path}", f"rm -rf {self.path(path)}", timeout_s=None)

    def flush(self) -> None:
        """Have all that was written on the flash."""
        self._do("flush", "sync", timeout_s=None)

    def path(self, relative: str) -> str:
        """Where a file of the device is, quoted for its shell. Raises DeviceError for a path that leads elsewhere."""
        return shlex.quote(self._full(relative))

    def _full(self, relative: str) -> str:
        parts = PurePosixPath(relative)
        if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\n" in relative:
            raise DeviceError(f"{relative!r} is not a path inside {self.folder}")
        return f"{self.folder}/{parts}"

    def _do(self, action: str, command: str, stdin: bytes = b"", timeout_s: float | None = _PATIENCE_S) -> ShellResult:
        """Run a command that must succeed."""
        result = self.line.run(command, stdin=stdin, timeout_s=_FOR_EVER_S if timeout_s is None else timeout_s)
        if result.exit_code:
            raise self._refused(action, result.reason)
        return result

    def _refused(self, action: str, reason: str) -> DeviceError:
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in reason), None)
        return DeviceError(f"{self.line.spec} cannot {action}: {reason}" + (f"; {remedy}" if remedy else ""))

    @contextmanager
    def _renewed(self) -> Iterator[None]:
        """After a lost connection, the next call connects anew."""
        try:
            yield
        except ConnectionLost:
            self.line.close()
            raise


def _groups(transfers: Iterable[Transfer]) -> Iterator[tuple[bool, list[Transfer]]]:
    """Runs of small files of one folder together, each large one alone."""
    small: list[Transfer] = []
    for transfer in transfers:
        is_small = transfer.start == 0 and transfer.source.stat().st_size <= _SMALL_BYTES
        if small and not (is_small and posixpath.dirname(transfer.path) == posixpath.dirname(small[0].path)):
            yield True, small
            small = []
        if is_small:
            small.append(transfer)
        else:
            yield False, [transfer]
    if small:
        yield True, small
