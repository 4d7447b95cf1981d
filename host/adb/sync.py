"""Adbd's sync service: whole files, many in a row (AOSP, packages/modules/adb/SYNC.TXT).

SEND path,mode; DATA in chunks of 64 KiB; DONE time. The device answers OKAY or FAIL; between files we do not wait.
"""

import struct
from pathlib import Path

from host.adb.stream import Stream, StreamClosed
from shard_store.errors import ConnectionLost, DeviceError

_FIELDS = struct.Struct("<4sI")
_MODE = 0o100644
_DATA_BYTES = 64 << 10
_BUFFER_BYTES = 1 << 20
_PATIENCE_S = 60.0
_MAX_PATH_BYTES = 1024


class Refusal(DeviceError):  # noqa: N818 - it reads as what happened
    """The device's own reason."""


class SyncSession:
    """A stream of "sync:" on which files are sent."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._answers = b""
        self._unanswered = 0

    def send(self, source: Path, path: str) -> int:
        """Send a file to a path of the device; folders on the way are made. Returns its size."""
        target = f"{path},{_MODE}".encode()
        if len(target) > _MAX_PATH_BYTES:
            raise Refusal(f"{path[:80]}...: the name is too long")
        nbytes = 0
        self._add(_FIELDS.pack(b"SEND", len(target)) + target)
        with source.open("rb") as file:
            while chunk := file.read(_DATA_BYTES):
                self._add(_FIELDS.pack(b"DATA", len(chunk)) + chunk)
                nbytes += len(chunk)
        self._add(_FIELDS.pack(b"DONE", int(source.stat().st_mtime) & 0xFFFFFFFF))
        self._unanswered += 1
        return nbytes

    def finish(self) -> None:
        """Wait until the device has all files. Raises Refusal with its reason if it could not take one."""
        self._flush()
        while self._unanswered:
            self._answer()

    def close(self) -> None:
        """End the service."""
        self._stream.close()

    def _add(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        data, self._buffer = bytes(self._buffer), bytearray()
        try:
            self._stream.write(data)
        except StreamClosed:
            while self._unanswered:
                self._answer()
            raise ConnectionLost("the device broke the transfer off") from None

    def _answer(self) -> None:
        status, nbytes = _FIELDS.unpack(self._exactly(_FIELDS.size))
        if status != b"OKAY":
            raise Refusal(self._exactly(nbytes).decode("utf-8", "replace"))
        self._unanswered -= 1

    def _exactly(self, nbytes: int) -> bytes:
        while len(self._answers) < nbytes:
            data = self._stream.read(_PATIENCE_S)
            if not data:
                raise ConnectionLost("the device broke the transfer off")
            self._answers += data
        data, self._answers = self._answers[:nbytes], self._answers[nbytes:]
        return data
