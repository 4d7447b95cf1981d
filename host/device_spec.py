"""Which device is meant: `local`, `usb`, `adb:SERIAL` or `adb:HOST:PORT`."""

import re
from dataclasses import dataclass
from enum import Enum

from shard_store.errors import DeviceError

DEFAULT_PORT = 5555

_NETWORK = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):(?P<port>\d{1,5})")
_SERIAL = re.compile(r"[\w.()-]{1,128}", re.ASCII)


class DeviceKind(str, Enum):
    """How a device is reached."""

    LOCAL = "local"  # a directory of this machine
    USB = "usb"  # the only device on the USB
    SERIAL = "serial"  # the device of that serial number
    NETWORK = "network"  # adbd at an address


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device as the user names it. serial: for kind SERIAL; host and port: for kind NETWORK."""

    kind: DeviceKind
    serial: str = ""
    host: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if self.kind is DeviceKind.NETWORK and not 0 < self.port < 1 << 16:
            raise DeviceError(f"port {self.port} of device {self} is not between 1 and 65535")

    @classmethod
    def parse(cls, text: str) -> "DeviceSpec":
        """Read what follows --device. Raises DeviceError for anything else."""
        if text in {DeviceKind.LOCAL.value, DeviceKind.USB.value}:
            return cls(DeviceKind(text))
        scheme, _, rest = text.partition(":")
        if scheme == "adb" and (match := _NETWORK.fullmatch(rest)):
            return cls(DeviceKind.NETWORK, host=match["host"].strip("[]"), port=int(match["port"]))
        if scheme == "adb" and _SERIAL.fullmatch(rest):
            return cls(DeviceKind.SERIAL, serial=rest)
        raise DeviceError(f"{text!r} names no device; use local, usb, adb:SERIAL or adb:HOST:PORT")

    @property
    def address(self) -> str:
        """HOST:PORT, or the serial number."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.kind is DeviceKind.NETWORK else self.serial

    def __str__(self) -> str:
        return f"adb:{self.address}" if self.kind in {DeviceKind.SERIAL, DeviceKind.NETWORK} else self.kind.value
