"""Commands on the device, with their exit codes (AOSP, packages/modules/adb/shell_protocol.h).

A packet is one byte of kind, four of length (little-endian), then the data.
"""

import struct
import threading
import time
from dataclasses import dataclass

from host.adb.stream import Stream, StreamClosed
from shard_store.errors import ConnectionLost, DeviceError

_PACKET = struct.Struct("<BI")
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)
_MAX_PACKET_BYTES = (1 << 20) - _PACKET.size  # one message of the link
_INLINE_BYTES = 64 << 10  # so much the device takes before anybody reads


@dataclass(frozen=True, slots=True)
class ShellResult:
    """How a command ended, and what it printed."""

    exit_code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output."""
        return self.out.decode("utf-8", "replace")

    @property
    def reason(self) -> str:
        """Last line of standard error, or the exit code if there is none."""
        lines = self.err.decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.exit_code}"


class ShellCommand:
    """A command that runs, on a stream of `shell,v2,raw`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""

    def write(self, data: bytes | memoryview) -> None:
        """To its standard input. Raises StreamClosed once it has ended."""
        view = memoryview(data)
        for start in range(0, len(view), _MAX_PACKET_BYTES):
            piece = view[start : start + _MAX_PACKET_BYTES]
            self._stream.write(b"".join((_PACKET.pack(_STDIN, len(piece)), piece)))

    def close_stdin(self) -> None:
        """Let it see the end of its input."""
        self._stream.write(_PACKET.pack(_CLOSE_STDIN, 0))

    def wait(self, timeout_s: float) -> ShellResult:
        """Read what it prints until it ends. Raises ConnectionLost if it has not ended within the time."""
        end = time.monotonic() + timeout_s
        printed = {_STDOUT: bytearray(), _STDERR: bytearray()}
        while (packet := self._packet(end)) is not None:
            kind, data = packet
            if kind == _EXIT:
                return ShellResult(data[0] if data else -1, bytes(printed[_STDOUT]), bytes(printed[_STDERR]))
            if kind in printed:
                printed[kind] += data
        raise ConnectionLost("a command was cut off on the device")

    def _packet(self, end: float) -> tuple[int, bytes] | None:
        header = self._exactly(_PACKET.size, end)
        if header is None:
            return None
        kind, nbytes = _PACKET.unpack(header)
        data = self._exactly(nbytes, end)
        return None if data is None else (kind, data)

    def _exactly(self, nbytes: int, end: float) -> bytes | None:
        """None if the stream ends before."""
        while len(self._buffer) < nbytes:
            data = self._stream.read(max(end - time.monotonic(), 0.0))
            if not data:
                return None
            self._buffer += data
        data, self._buffer = self._buffer[:nbytes], self._buffer[nbytes:]
        return data

    def close(self) -> None:
        """Let go of it; if it still runs, the device hangs it up."""
        self._stream.close()


def run(command: ShellCommand, stdin: bytes, timeout_s: float) -> ShellResult:
    """Feed a command and wait for its end."""
    try:
        if len(stdin) <= _INLINE_BYTES:
            _feed(command, stdin)
            return command.wait(timeout_s)
        feeder = threading.Thread(target=_feed, args=(command, stdin), daemon=True)
        feeder.start()
        return command.wait(timeout_s)
    finally:
        command.close()


def _feed(command: ShellCommand, stdin: bytes) -> None:
    try:
        command.write(stdin)
        command.close_stdin()
    except (StreamClosed, ConnectionLost):
        return  # whoever waits for its result learns why


def succeed(result: ShellResult, action: str) -> ShellResult:
    """The result, if the exit code is 0. Otherwise DeviceError with the device's own reason."""
    if result.exit_code:
        raise DeviceError(f"the device cannot {action}: {result.reason}")
    return result
