"""The `adb` program's server as the way to a device (AOSP, packages/modules/adb/SERVICES.TXT).

Every stream is a connection to the server of its own: "host:transport:SERIAL", then the service.
"""

import contextlib
import os
import select
import shutil
import socket
import subprocess

from host.adb.stream import StreamClosed
from host.adb.transport import STALL_SECONDS
from host.device_spec import DeviceKind, DeviceSpec
from shard_store.errors import ConnectionLost, DeviceError

DEFAULT_SERVER_PORT = 5037
_READ_BYTES = 1 << 20
_START_SECONDS = 30
_REMEDIES = {
    "unauthorized": "accept this computer's key on the device's screen, then try again",
    "offline": "reconnect it or restart its USB debugging, then try again",
    "not found": "see `adb devices`; connect it or name another one",
    "no devices": "plug one in with USB debugging switched on, or `adb connect HOST:PORT`",
    "more than one": "name one with --device adb:SERIAL; `adb devices` lists them",
}


class ServerLink:
    """Streams to one device through the server."""

    def __init__(self, transport: str, stall_s: float = STALL_SECONDS) -> None:
        self._transport = transport  # such as "host:transport:SERIAL"
        self._stall_s = stall_s
        prefix = (
            "host-usb" if transport == "host:transport-usb" else f"host-serial:{transport.partition(':transport:')[2]}"
        )
        self.features = frozenset(_ask(f"{prefix}:features").split(","))

    @classmethod
    def to(cls, spec: DeviceSpec, stall_s: float = STALL_SECONDS) -> "ServerLink":
        """To a device that the server knows; one at an address it is told to connect to first. Raises DeviceError."""
        _start_server()
        if spec.kind is DeviceKind.NETWORK:
            _connect_server_to(spec.address)
        usb = spec.kind is DeviceKind.USB
        return cls("host:transport-usb" if usb else f"host:transport:{spec.address}", stall_s)

    def open(self, service: str) -> "ServerStream":
        """Open a service. A device that was there when the link was made, and now is not, may come back."""
        connection = _connect()
        try:
            try:
                _request(connection, self._transport)
            except DeviceError as error:
                raise ConnectionLost(str(error)) from error
            _request(connection, service)
        except BaseException:
            connection.close()
            raise
        connection.settimeout(self._stall_s)
        return ServerStream(connection)

    def close(self) -> None:
        """Nothing stays open between streams."""


class ServerStream:
    """A connection to the server that has become a stream to the device."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, timeout_s: float | None = None) -> bytes:
        """The next bytes; empty once the device has closed."""
        try:
            if not select.select([self._connection], [], [], timeout_s)[0]:
                raise ConnectionLost(f"the device has not answered for {timeout_s:.0f} s")
            return self._connection.recv(_READ_BYTES)
        except OSError as error:
            raise ConnectionLost(f"the adb server broke off ({error.strerror or error})") from error

    def write(self, data: bytes | memoryview) -> None:
        """Send everything."""
        try:
            self._connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise StreamClosed from error
        except OSError as error:
            raise ConnectionLost(f"the adb server broke off ({error.strerror or error})") from error

    def close(self) -> None:
        """Close the connection, also for whoever reads from it."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def server_devices() -> list[str]:
    """Serial numbers of the devices that the server can use now."""
    _start_server()
    lines = (line.split("\t") for line in _ask("host:devices").splitlines())
    return [fields[0] for fields in lines if fields[-1] == "device"]


def _connect_server_to(address: str) -> None:
    """Have the server connect to an address. A connection that it holds, but that is dead, is made anew."""
    answer = _ask(f"host:connect:{address}")
    if answer.startswith("already") and address not in server_devices():
        _ask(f"host:disconnect:{address}")
        answer = _ask(f"host:connect:{address}")
    if not answer.startswith(("connected to", "already connected to")):
        raise DeviceError(f"adb: {answer.strip()}; check the address, or pair first with `adb pair`")


def _address() -> tuple[str, int]:
    return "127.0.0.1", int(os.environ.get("ANDROID_ADB_SERVER_PORT", DEFAULT_SERVER_PORT))


def _connect() -> socket.socket:
    try:
        connection = socket.create_connection(_address(), timeout=_START_SECONDS)
    except OSError as error:
        raise ConnectionLost(f"no adb server at port {_address()[1]}; start it with `adb start-server`") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _start_server() -> None:
    """Have a server, if the program is there to become one."""
    try:
        _connect().close()
    except ConnectionLost:
        program = shutil.which("adb")
        if program is None:
            raise DeviceError(
                "no adb server runs and there is no `adb` to start; install it, or leave --via out"
            ) from None
        subprocess.run([program, "start-server"], check=False, capture_output=True, timeout=_START_SECONDS)  # noqa: S603


def _ask(request: str) -> str:
    connection = _connect()
    try:
        _request(connection, request)
        return _exactly(connection, int(_exactly(connection, 4), 16)).decode("utf-8", "replace")
    except ValueError as error:
        raise DeviceError(f"what listens at port {_address()[1]} is no adb server") from error
    finally:
        connection.close()


def _request(connection: socket.socket, text: str) -> None:
    """Raises DeviceError with the server's reason if it says no."""
    data = text.encode()
    try:
        connection.sendall(b"%04x" % len(data) + data)
        status = _exactly(connection, 4)
        if status == b"OKAY":
            return
        reason = _exactly(connection, int(_exactly(connection, 4), 16)).decode("utf-8", "replace").strip()
    except OSError as error:
        raise ConnectionLost(f"the adb server broke off ({error.strerror or error})") from error
    except ValueError as error:
        raise DeviceError(f"what listens at port {_address()[1]} is no adb server") from error
    first_line = reason.splitlines()[0] if reason else "no reason given"
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words in reason), "see `adb devices`")
    raise DeviceError(f"adb: {first_line.rstrip('.')}; {remedy}")


def _exactly(connection: socket.socket, nbytes: int) -> bytes:
    data = b""
    while len(data) < nbytes:
        received = connection.recv(nbytes - len(data))
        if not received:
            raise ConnectionLost("the adb server closed the connection")
        data += received
    return data
