"""The shell protocol and the sync protocol, where a device does what a real one does not do on demand."""

import struct
from pathlib import Path

import pytest

from host.adb.shell import ShellCommand, ShellResult, succeed
from host.adb.stream import StreamClosed
from host.adb.sync import Refusal, SyncSession
from shard_store.errors import ConnectionLost, DeviceError


class Script:
    """A stream that says what it is told to, in pieces, and closes when the device has enough."""

    def __init__(self, *says: bytes, takes: int = 1 << 30) -> None:
        self._says = list(says)
        self._takes = takes
        self.written = b""

    def read(self, timeout_s: float | None = None) -> bytes:
        return self._says.pop(0) if self._says else b""

    def write(self, data: bytes | memoryview) -> None:
        if len(self.written) + len(data) > self._takes:
            raise StreamClosed
        self.written += data

    def close(self) -> None:
        self._says.clear()


def packet(kind: int, data: bytes) -> bytes:
    return struct.pack("<BI", kind, len(data)) + data


def test_packets_may_come_in_any_pieces() -> None:
    said = packet(1, b"out") + packet(2, b"err\nlast\n") + packet(1, b"put") + packet(9, b"?") + packet(3, b"\x07")
    result = ShellCommand(Script(*(said[at : at + 4] for at in range(0, len(said), 4)))).wait(1)
    assert (result.exit_code, result.out, result.reason) == (7, b"output", "last")


@pytest.mark.parametrize("said", [b"", packet(1, b"out"), packet(1, b"out")[:-1], b"\x01\x00"])
def test_a_command_without_an_exit_code_was_cut_off(said: bytes) -> None:
    with pytest.raises(ConnectionLost, match="cut off"):
        ShellCommand(Script(said)).wait(1)


def test_input_is_packed_and_ended() -> None:
    stream = Script()
    command = ShellCommand(stream)
    command.write(b"abc")
    command.close_stdin()
    assert stream.written == packet(0, b"abc") + packet(4, b"")


def test_what_must_succeed_tells_why_it_did_not() -> None:
    good = ShellResult(0, b"fine", b"")
    assert succeed(good, "do it") is good
    with pytest.raises(DeviceError, match=r"^the device cannot do it: exit code 3$"):
        succeed(ShellResult(3, b"", b""), "do it")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"data")
    return path


def test_a_file_that_is_refused_is_told_with_the_devices_reason(source: Path) -> None:
    session = SyncSession(Script(b"OKAY\0\0\0\0FA", b"IL\x0b\0\0\0", b"not", b" like this"))
    assert session.send(source, "/a") == 4
    session.send(source, "/b")
    with pytest.raises(Refusal, match=r"^not like th$"):
        session.finish()


def test_a_session_that_ends_early_is_worth_another_try(source: Path) -> None:
    session = SyncSession(Script(takes=3))
    session.send(source, "/a")
    with pytest.raises(ConnectionLost, match="broke the transfer off"):
        session.finish()


def test_a_name_that_is_too_long_is_refused(source: Path) -> None:
    with pytest.raises(Refusal, match="the name is too long"):
        SyncSession(Script()).send(source, "/" + "a" * 1100)
