"""Many streams over one connection to adbd: what the `adb` program's server does for its clients.

A thread reads messages and hands them to their streams. Each direction of a stream has one message under way: the next
goes out when the device has said OKAY to the last (AOSP, packages/modules/adb/protocol.txt). Adbd may say OKAY more
often, so whoever sends much waits now and then until it has been taken.
"""

import threading
import time
from collections import deque

from host.adb.handshake import Welcome
from host.adb.message import CLSE, OKAY, OPEN, WRTE, Message, read_message, write_message
from host.adb.stream import StreamClosed
from host.adb.transport import STALL_SECONDS, Transport
from shard_store.errors import ConnectionLost, DeviceError


class DirectLink:
    """A connection to adbd that has been welcomed. All methods may be called from any thread."""

    def __init__(self, transport: Transport, peer: str, welcome: Welcome, stall_s: float = STALL_SECONDS) -> None:
        self.peer = peer
        self.stall_s = stall_s
        self.max_payload_bytes = welcome.max_payload_bytes
        self.features = welcome.features
        self._transport = transport
        self._writing = threading.Lock()
        self._changed = threading.Condition()  # guards the streams' states and _broken
        self._streams: dict[int, LinkStream] = {}
        self._last_id = 0
        self._broken: ConnectionLost | None = None
        self._reader = threading.Thread(target=self._read_all, name=f"adb {peer}", daemon=True)
        self._reader.start()

    def open(self, service: str) -> "LinkStream":
        """Open a service. Raises DeviceError if the device refuses it."""
        with self._changed:
            self._last_id += 1
            stream = self._streams[self._last_id] = LinkStream(self, self._last_id)
        self._send(OPEN, stream.local_id, 0, service.encode() + b"\0")
        stream.wait_open(service)
        return stream

    def close(self) -> None:
        """Close the connection."""
        self._break(ConnectionLost(f"{self.peer}: the connection was closed"))
        self._transport.close()
        if self._reader.is_alive() and threading.current_thread() is not self._reader:
            self._reader.join(self.stall_s)

    def _send(self, command: int, first: int, second: int, data: bytes | memoryview = b"") -> None:
        try:
            with self._writing:
                write_message(self._transport, command, first, second, data)
        except ConnectionLost as error:
            raise self._break(error) from error

    def _read_all(self) -> None:
        try:
            while True:
                self._deliver(read_message(self._transport))
        except ConnectionLost as error:
            self._break(error)

    def _deliver(self, message: Message) -> None:
        """Sends nothing, so that it never waits for the device. Messages to streams that are gone are dropped."""
        with self._changed:
            stream = self._streams.get(message.second)
            if stream is None or message.command not in {OKAY, WRTE, CLSE}:
                return
            if message.command == OKAY:
                stream.remote_id, stream.may_write = message.first, True
            elif message.command == WRTE:
                stream.inbox.append(message.data)
            else:
                stream.closed_there = True
                del self._streams[message.second]
            self._changed.notify_all()

    def _break(self, error: ConnectionLost) -> ConnectionLost:
        """Every stream fails from now on. The first reason is kept."""
        with self._changed:
            if self._broken is None:
                self._broken = ConnectionLost(f"{self.peer}: {str(error).removeprefix(f'{self.peer}: ')}")
            self._changed.notify_all()
            return self._broken

    def _check(self) -> None:
        if self._broken is not None:
            raise ConnectionLost(str(self._broken))


class LinkStream:
    """A stream of a DirectLink. Its state is guarded by the link."""

    def __init__(self, link: DirectLink, local_id: int) -> None:
        self.local_id = local_id
        self.remote_id = 0
        self.may_write = False
        self.closed_there = False
        self.inbox: deque[bytes] = deque()
        self._link = link
        self._closed_here = False

    def wait_open(self, service: str) -> None:
        """Wait for the device's OKAY to the service."""
        self._wait()
        if not self.may_write:
            raise DeviceError(f"{self._link.peer} refuses {service.partition(':')[0]!r}")

    def read(self, timeout_s: float | None = None) -> bytes:
        """The next bytes; empty once the device has closed."""
        with self._link._changed:
            end = None if timeout_s is None else time.monotonic() + timeout_s
            while not self.inbox:
                if self.closed_there or self._closed_here:
                    return b""
                self._link._check()
                self._sleep(end, timeout_s)
            data = self.inbox.popleft()
            acknowledge = not self.closed_there
        if acknowledge:
            self._link._send(OKAY, self.local_id, self.remote_id)
        return data

    def write(self, data: bytes | memoryview) -> None:
        """Send everything."""
        view = memoryview(data)
        for start in range(0, len(view), self._link.max_payload_bytes):
            self._wait()
            if self.closed_there or self._closed_here:
                raise StreamClosed
            self.may_write = False
            piece = view[start : start + self._link.max_payload_bytes]
            self._link._send(WRTE, self.local_id, self.remote_id, piece)

    def close(self) -> None:
        """Tell the device, unless it knows."""
        with self._link._changed:
            if self._closed_here:
                return
            self._closed_here = True
            tell = not self.closed_there and self._link._broken is None
            self._link._streams.pop(self.local_id, None)
            self._link._changed.notify_all()
        if tell:
            try:
                self._link._send(CLSE, self.local_id, self.remote_id)
            except ConnectionLost:
                return  # then the device finds out by itself

    def _wait(self) -> None:
        """Until the device has taken the last message, or the stream is closed."""
        end = time.monotonic() + self._link.stall_s
        with self._link._changed:
            while not (self.may_write or self.closed_there or self._closed_here):
                self._link._check()
                self._sleep(end, self._link.stall_s)

    def _sleep(self, end: float | None, timeout_s: float | None) -> None:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise ConnectionLost(f"{self._link.peer} has not answered for {timeout_s:.0f} s")
        self._link._changed.wait(left)
