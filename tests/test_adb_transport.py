"""Bytes to and from devices, whole or not at all."""

import os
import socket
import sys
import threading
from types import ModuleType

import pytest

from host.adb.transport import NetworkTransport, UsbLine, usb_devices
from shard_store.errors import ConnectionLost, DeviceError


def test_more_than_the_sockets_buffer_is_sent_whole() -> None:
    data = os.urandom(8 << 20)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = NetworkTransport("127.0.0.1", listener.getsockname()[1])
        transport.connect()
        peer, _ = listener.accept()

        def read() -> None:
            while sum(map(len, received)) < len(data):
                received.append(peer.recv(1 << 20))
            peer.sendall(b"done" + bytes(1 << 20))
            peer.close()

        reader = threading.Thread(target=read)
        reader.start()
        transport.write(memoryview(data))
        assert transport.read(4) == b"done"
        assert transport.read(1 << 20) == bytes(1 << 20)
        reader.join()
        with pytest.raises(ConnectionLost, match="closed the connection"):
            transport.read(1)
    assert b"".join(received) == data
    transport.close()
    transport.close()
    with pytest.raises(ConnectionLost, match="the connection is closed"):
        transport.write(b"x")


class UsbError(Exception):
    def __init__(self, usb_error: Exception) -> None:
        super().__init__("usb")
        self.usb_error = usb_error


class Timeout(Exception):
    """As libusb's."""


class Pipe:
    """Stands for adb-shell's USB transport: gives what it holds in small pieces, and times out now and then."""

    def __init__(self, data: bytes, takes: int = 1 << 30) -> None:
        self.data = data
        self.takes = takes
        self.written: list[bytes] = []
        self.closed = False
        self._reads = 0

    def bulk_read(self, nbytes: int, timeout_s: float) -> bytes:
        self._reads += 1
        if self._reads % 2:
            raise UsbError(Timeout())
        if not self.data:
            raise UsbError(OSError())
        piece, self.data = self.data[: min(nbytes, 3)], self.data[min(nbytes, 3) :]
        return piece

    def bulk_write(self, data: bytes, timeout_s: float) -> int:
        if self.closed:
            raise UsbError(OSError())
        self.written.append(data)
        return min(len(data), self.takes)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def _libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that UsbLine imports, without the library."""
    errors = ModuleType("adb_shell.exceptions")
    errors.__dict__.update(UsbReadFailedError=UsbError, UsbWriteFailedError=UsbError)
    usb1 = ModuleType("usb1")
    usb1.__dict__.update(USBErrorTimeout=Timeout)
    monkeypatch.setitem(sys.modules, "adb_shell.exceptions", errors)
    monkeypatch.setitem(sys.modules, "usb1", usb1)


@pytest.mark.usefixtures("_libusb")
def test_usb_reads_on_until_it_has_all() -> None:
    line = UsbLine(Pipe(b"0123456789"))
    assert line.read(10) == b"0123456789"
    with pytest.raises(ConnectionLost, match="cable may be loose"):
        line.read(1)


@pytest.mark.usefixtures("_libusb")
def test_usb_writes_all_or_the_connection_is_lost() -> None:
    pipe = Pipe(b"")
    line = UsbLine(pipe)
    line.write(memoryview(b"data"))
    line.write(b"")
    assert pipe.written == [b"data"]
    line.close()
    with pytest.raises(ConnectionLost, match="cable may be loose"):
        line.write(b"data")
    with pytest.raises(ConnectionLost, match="took 2 of 4 bytes"):
        UsbLine(Pipe(b"", takes=2)).write(b"data")


def test_without_libusb_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "adb_shell.transport.usb_transport", raising=False)
    monkeypatch.setitem(sys.modules, "usb1", None)
    with pytest.raises(DeviceError, match=r"^USB needs the library libusb-1.0; install it, or use --via adb$"):
        usb_devices()
