"""Byte transports below the ADB protocol: adb-shell's, made whole for a network and for USB."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from adb_shell.transport.tcp_transport import TcpTransport

from host.device_spec import DeviceKind, DeviceSpec
from shard_store.errors import ConnectionLost, DeviceError

if TYPE_CHECKING:
    from adb_shell.transport.usb_transport import UsbTransport

CONNECT_SECONDS = 10.0
STALL_SECONDS = 15.0  # a peer that acknowledges nothing for so long is gone


class Transport(Protocol):
    """Carries bytes both ways. Errors are ConnectionLost."""

    def read(self, nbytes: int) -> bytes:
        """Exactly so many bytes."""

    def write(self, data: bytes | memoryview) -> None:
        """All of the bytes."""

    def close(self) -> None:
        """Wakes whoever reads, too."""


class NetworkTransport(TcpTransport):  # type: ignore[misc]
    """adb-shell's TCP transport, except that it sends everything, at once, and notices a peer that is gone."""

    _connection: socket.socket | None

    def __init__(self, host: str, port: int, stall_s: float = STALL_SECONDS) -> None:
        super().__init__(host, port)
        self._stall_s = stall_s

    def connect(self, transport_timeout_s: float | None = CONNECT_SECONDS) -> None:
        """Connect. Raises OSError."""
        connection = socket.create_connection((self._host, self._port), timeout=transport_timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _patience(self._stall_s):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        connection.settimeout(None)
        self._connection = connection

    def close(self) -> None:
        """Close the connection, also for whoever reads from it; any thread may, and again."""
        connection, self._connection = self._connection, None
        if connection:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def read(self, nbytes: int) -> bytes:
        """Exactly so many bytes."""
        buffer = bytearray(nbytes)
        view, done = memoryview(buffer), 0
        with _lost_instead("read from"):
            while done < nbytes:
                received = self._open().recv_into(view[done:])
                if not received:
                    raise ConnectionLost("the device closed the connection")
                done += received
        return bytes(buffer)

    def write(self, data: bytes | memoryview) -> None:
        """All of the bytes: the inherited bulk_write sends what fits the socket's buffer and drops the rest."""
        with _lost_instead("write to"):
            self._open().sendall(data)

    def _open(self) -> socket.socket:
        if self._connection is None:
            raise ConnectionLost("the connection is closed")
        return self._connection


def _patience(stall_s: float) -> Iterator[tuple[int, int]]:
    """Socket options under which a silent peer is given up after about `stall_s`, where the system has them."""
    probes = 3
    for name, value in (
        ("TCP_USER_TIMEOUT", int(stall_s * 1000)),
        ("TCP_KEEPIDLE", max(1, int(stall_s / probes))),
        ("TCP_KEEPINTVL", max(1, int(stall_s / probes))),
        ("TCP_KEEPCNT", probes),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            yield option, value


@contextmanager
def _lost_instead(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConnectionLost(f"cannot {action} the device ({error.strerror or error})") from error


class UsbLine:
    """adb-shell's USB transport behind the same interface."""

    def __init__(self, transport: "UsbTransport") -> None:
        self._transport: Any = transport

    def read(self, nbytes: int) -> bytes:
        """Exactly so many bytes; waits as long as it takes."""
        from adb_shell.exceptions import UsbReadFailedError  # noqa: PLC0415 - needs libusb
        from usb1 import USBErrorTimeout  # noqa: PLC0415

        data = b""
        while len(data) < nbytes:
            try:
                data += self._transport.bulk_read(nbytes - len(data), 1.0)
            except UsbReadFailedError as error:
                if not isinstance(error.usb_error, USBErrorTimeout):
                    raise ConnectionLost("cannot read from the device: the cable may be loose") from error
        return data

    def write(self, data: bytes | memoryview) -> None:
        """All of the bytes, in one transfer."""
        from adb_shell.exceptions import UsbWriteFailedError  # noqa: PLC0415 - needs libusb

        try:
            sent = self._transport.bulk_write(bytes(data), STALL_SECONDS) if data else 0
        except UsbWriteFailedError as error:
            raise ConnectionLost("cannot write to the device: the cable may be loose") from error
        if sent != len(data):
            raise ConnectionLost(f"the device took {sent} of {len(data)} bytes")

    def close(self) -> None:
        """Give the device back."""
        self._transport.close()


def open_network(spec: DeviceSpec, stall_s: float = STALL_SECONDS) -> Transport:
    """Connect to adbd at an address. Raises DeviceError."""
    transport = NetworkTransport(spec.host, spec.port, stall_s)
    try:
        transport.connect()
    except OSError as error:
        raise DeviceError(
            f"no device at {spec.address} ({error.strerror or error}); check the address, and `adb tcpip {spec.port}` "
            "on a device that is connected by USB"
        ) from error
    return transport


def open_usb(spec: DeviceSpec) -> Transport:
    """Open the device of that serial number, or the only one there is. Raises DeviceError."""
    found = usb_devices()
    if spec.kind is DeviceKind.SERIAL:
        chosen = [device for serial, device in found if serial == spec.serial]
    elif len(found) > 1:
        names = ", ".join(f"adb:{serial}" for serial, _ in found)
        raise DeviceError(f"{len(found)} devices are on the USB ({names}); name one with --device")
    else:
        chosen = [device for _, device in found]
    if not chosen:
        what = f"device {spec.serial!r}" if spec.serial else "device"
        raise DeviceError(
            f"no {what} on the USB; plug it in with USB debugging switched on, or try --via adb if adb sees it"
        )
    from usb1 import USBError  # noqa: PLC0415 - needs libusb

    try:
        chosen[0].connect()
    except USBError as error:
        raise DeviceError(
            f"{spec} cannot be opened ({error}); stop what uses it (`adb kill-server`), allow this user to use it "
            "(udev rules for Android), or use --via adb"
        ) from error
    return UsbLine(chosen[0])


def usb_devices() -> list[tuple[str, "UsbTransport"]]:
    """Serial number and transport of every device on the USB that speaks ADB. Raises DeviceError without libusb."""
    try:
        from adb_shell.transport.usb_transport import UsbTransport  # noqa: PLC0415 - fails without libusb
        from usb1 import USBError  # noqa: PLC0415
    except (ImportError, OSError) as error:
        raise DeviceError("USB needs the library libusb-1.0; install it, or use --via adb") from error
    try:
        return [(device.serial_number, device) for device in UsbTransport.find_all_adb_devices()]
    except USBError as error:
        raise DeviceError(f"the USB cannot be searched ({error}); use --via adb") from error
