"""A port of this machine that leads to a port of the device, without the `adb` program."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from host.adb.connection import AdbConnection
from host.adb.stream import Stream, StreamClosed
from shard_store.errors import ConnectionLost, DeviceError

_READ_BYTES = 64 << 10


class Forward:
    """Listens on 127.0.0.1 and carries every connection to the device, over one connection that it renews."""

    def __init__(self, connect: Callable[[], AdbConnection], device_port: int, local_port: int = 0) -> None:
        self._connect = connect
        self._device_port = device_port
        self._connection: AdbConnection | None = None
        self._lock = threading.Lock()
        try:
            self._listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise DeviceError(f"port {local_port} cannot be used ({error.strerror}); choose another one") from error
        self._thread = threading.Thread(target=self._accept, name=f"forward {self.port}", daemon=True)

    @property
    def port(self) -> int:
        """The port here."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """What a client of HTTP asks here."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Connect to the device, then serve until `close`. Raises DeviceError if the device cannot be reached."""
        try:
            self._connection = self._connect()
        except BaseException:
            self._listener.close()
            raise
        self._thread.start()

    def wait(self) -> None:
        """Until `close`."""
        self._thread.join()

    def close(self) -> None:
        """Stop listening and break what is under way."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._thread.is_alive():
            self._thread.join()
        if self._connection:
            self._connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                stream = self._open()
            except DeviceError:
                return  # the client sees its connection closed, as if nothing listened there
            sender = threading.Thread(target=_send, args=(client, stream), daemon=True)
            sender.start()
            _receive(stream, client)
            stream.close()
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            sender.join()

    def _open(self) -> Stream:
        """A stream to the port. A connection that is found broken is replaced once."""
        with self._lock:
            if self._connection:
                try:
                    return self._connection.open_tcp(self._device_port)
                except ConnectionLost:
                    self._connection.close()
                    self._connection = None
            self._connection = self._connect()
            return self._connection.open_tcp(self._device_port)


@contextmanager
def forward(connect: Callable[[], AdbConnection], device_port: int, local_port: int = 0) -> Iterator[Forward]:
    """A forwarded port for as long as the block runs. local_port: 0 takes a free one. Raises DeviceError."""
    served = Forward(connect, device_port, local_port)
    served.start()
    try:
        yield served
    finally:
        served.close()


def _send(client: socket.socket, stream: Stream) -> None:
    """From the client to the device. When the client is gone, so is the stream: ADB cannot close one direction."""
    with suppress(OSError, StreamClosed, ConnectionLost):
        while data := client.recv(_READ_BYTES):
            stream.write(data)
    stream.close()


def _receive(stream: Stream, client: socket.socket) -> None:
    with suppress(OSError, ConnectionLost):
        while data := stream.read():
            client.sendall(data)
