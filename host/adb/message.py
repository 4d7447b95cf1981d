"""Messages of the ADB protocol, as they travel between host and device (AOSP, packages/modules/adb/protocol.txt)."""

import struct
from dataclasses import dataclass

from host.adb.transport import Transport
from shard_store.errors import ConnectionLost

VERSION = 0x01000001  # from here on nobody looks at checksums
MAX_PAYLOAD_BYTES = 1 << 20
HEADER = struct.Struct("<6I")


def _command(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN = _command(b"CNXN")
AUTH = _command(b"AUTH")
STLS = _command(b"STLS")
OPEN = _command(b"OPEN")
OKAY = _command(b"OKAY")
WRTE = _command(b"WRTE")
CLSE = _command(b"CLSE")

AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Message:
    """A command, its two arguments and its payload."""

    command: int
    first: int
    second: int
    data: bytes = b""


def write_message(
    transport: Transport,
    command: int,
    first: int,
    second: int,
    data: bytes | memoryview = b"",
    *,
    checksum: bool = False,
) -> None:
    """Send a message. checksum: only old devices look at it, and only before they have told their version."""
    total = sum(data) & 0xFFFFFFFF if checksum else 0
    transport.write(HEADER.pack(command, first, second, len(data), total, command ^ 0xFFFFFFFF))
    if data:
        transport.write(data)


def read_message(transport: Transport) -> Message:
    """Wait for a message. Raises ConnectionLost if what comes is none."""
    command, first, second, nbytes, _, magic = HEADER.unpack(transport.read(HEADER.size))
    if magic != command ^ 0xFFFFFFFF or nbytes > MAX_PAYLOAD_BYTES:
        raise ConnectionLost("the other end does not speak ADB; check the port")
    return Message(command, first, second, transport.read(nbytes) if nbytes else b"")
