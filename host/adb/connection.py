"""A connection to a device: commands, files and ports over it."""

from enum import Enum
from types import TracebackType

from host.adb.handshake import shake_hands
from host.adb.keys import load_signer
from host.adb.link import DirectLink
from host.adb.server import ServerLink
from host.adb.shell import ShellCommand, ShellResult, run
from host.adb.stream import Link, Stream
from host.adb.transport import STALL_SECONDS, open_network, open_usb
from host.device_spec import DeviceKind, DeviceSpec
from shard_store.errors import DeviceError


class Via(str, Enum):
    """Who speaks to the device."""

    DIRECT = "direct"  # this program
    ADB = "adb"  # the `adb` program's server


class AdbConnection:
    """An open connection. Several threads may use it at once, each with streams of its own."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> ShellResult:
        """Run a command of the device's shell to its end. Raises ConnectionLost if it takes longer than `timeout_s`."""
        return run(self.start(command), stdin, timeout_s)

    def start(self, command: str) -> ShellCommand:
        """Start a command, to be fed piece by piece."""
        if "shell_v2" not in self._link.features:
            raise DeviceError(f"{self.name} cannot report exit codes; Android 7 or newer is needed")
        return ShellCommand(self._link.open(f"shell,v2,raw:{command}"))

    def open_tcp(self, port: int) -> Stream:
        """Connect to a port of the device's own 127.0.0.1. Raises DeviceError if nothing listens there."""
        return self._link.open(f"tcp:{port}")

    def open(self, service: str) -> Stream:
        """Open any other service, such as "sync:"."""
        return self._link.open(service)

    def close(self) -> None:
        """Close the connection and all its streams."""
        self._link.close()

    def __enter__(self) -> "AdbConnection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def connect(spec: DeviceSpec, via: Via = Via.DIRECT, stall_s: float = STALL_SECONDS) -> AdbConnection:
    """Connect to a device. Raises DeviceError: one line with the remedy.

    stall_s: a device that acknowledges nothing for so long is given up.
    """
    if spec.kind is DeviceKind.LOCAL:
        raise DeviceError("the local device is a directory of this machine; there is nothing to connect to")
    if via is Via.ADB:
        return AdbConnection(ServerLink.to(spec, stall_s), str(spec))
    transport = open_network(spec, stall_s) if spec.kind is DeviceKind.NETWORK else open_usb(spec)
    try:
        welcome = shake_hands(transport, str(spec), load_signer())
    except BaseException:
        transport.close()
        raise
    return AdbConnection(DirectLink(transport, str(spec), welcome, stall_s), str(spec))
