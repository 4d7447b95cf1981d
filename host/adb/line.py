"""A connection to a device that is opened when it is needed, and again after it was lost."""

import threading
from collections.abc import Callable

from host.adb.connection import AdbConnection, Via, connect
from host.adb.shell import ShellResult
from host.device_spec import DeviceSpec
from shard_store.errors import ConnectionLost, DeviceError


class AdbLine:
    """Commands on a device, over one connection at a time. May be used by several threads."""

    def __init__(
        self, spec: DeviceSpec, via: Via = Via.DIRECT, connect: Callable[[DeviceSpec, Via], AdbConnection] = connect
    ) -> None:
        self.spec = spec
        self.via = via
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: AdbConnection | None = None
        self._was_open = False

    def connection(self) -> AdbConnection:
        """The open connection. Raises DeviceError if there is none to be had."""
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            return self._connection

    def _open(self) -> AdbConnection:
        """A device that was there before, and now is not, may come back."""
        try:
            connection = self._connect(self.spec, self.via)
        except DeviceError as error:
            raise ConnectionLost(str(error)) if self._was_open else error from error
        self._was_open = True
        return connection

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> ShellResult:
        """Run a command of the device's shell to its end. After ConnectionLost the next call connects anew."""
        try:
            return self.connection().run(command, stdin=stdin, timeout_s=timeout_s)
        except ConnectionLost:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection:
            connection.close()
