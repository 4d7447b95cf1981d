"""The same thing done on several devices at once: one that fails does not stop the others."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from host.adb.connection import Via
from host.adb.files import DEFAULT_FOLDER, AdbFiles
from host.adb.line import AdbLine
from host.adb.server import server_devices
from host.adb.transport import usb_devices
from host.device import DeviceFiles
from host.device_spec import DeviceKind, DeviceSpec
from host.local_device import LocalDevice
from shard_store.errors import DeviceError, StiError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it on one device: a result, or the reason why there is none."""

    device: str
    result: "DataclassInstance | None"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came of it on each device."""

    devices: tuple[Outcome, ...]


Task = Callable[[DeviceSpec, DeviceFiles], "DataclassInstance"]


def all_devices(via: Via) -> tuple[DeviceSpec, ...]:
    """Every device on the USB, or with Via.ADB all that the server knows. Raises DeviceError if there is none."""
    serials = server_devices() if via is Via.ADB else [serial for serial, _ in usb_devices()]
    if not serials:
        raise DeviceError("no device was found; plug one in with USB debugging switched on, or name it with --device")
    return tuple(DeviceSpec.parse(f"adb:{serial}") for serial in serials)


def on_each(specs: Sequence[DeviceSpec], via: Via, root: Path | None, task: Task) -> Outcomes:
    """Do it on all devices at once.

    root: folder on the devices; None for the usual one. Raises the error if there is only one device and it fails.
    """
    if len(specs) == 1:
        return Outcomes((Outcome(str(specs[0]), _on(specs[0], via, root, task)),))

    def attempt(spec: DeviceSpec) -> Outcome:
        try:
            return Outcome(str(spec), _on(spec, via, root, task))
        except (StiError, OSError) as error:
            return Outcome(str(spec), None, str(error))

    with ThreadPoolExecutor(len(specs), "device") as pool:
        return Outcomes(tuple(pool.map(attempt, specs)))


def _on(spec: DeviceSpec, via: Via, root: Path | None, task: Task) -> "DataclassInstance":
    if spec.kind is DeviceKind.LOCAL:
        return task(spec, LocalDevice(root))
    line = AdbLine(spec, via)
    try:
        return task(spec, AdbFiles(line, DEFAULT_FOLDER if root is None else root.as_posix()))
    finally:
        line.close()
