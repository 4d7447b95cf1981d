"""Several devices at once."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from host import fleet
from host.adb import transport
from host.adb.connection import Via, connect
from host.device import DeviceFiles
from host.device_spec import DeviceKind, DeviceSpec
from host.fleet import Outcome, all_devices, on_each
from host.local_device import LocalDevice
from shard_store.errors import DeviceError

LOCAL = DeviceSpec(DeviceKind.LOCAL)
USB = DeviceSpec(DeviceKind.USB)


@dataclass(frozen=True, slots=True)
class Answer:
    root: str


def root_of(spec: DeviceSpec, device: DeviceFiles) -> Answer:
    assert isinstance(device, LocalDevice)
    return Answer(device.root.name)


def broken(spec: DeviceSpec, device: DeviceFiles) -> Answer:
    raise DeviceError("broken")


def test_one_device_alone_raises_its_error(tmp_path: Path) -> None:
    assert on_each([LOCAL], Via.DIRECT, tmp_path / "a", root_of).devices == (Outcome("local", Answer("a")),)
    with pytest.raises(DeviceError, match="broken"):
        on_each([LOCAL], Via.DIRECT, tmp_path, broken)


def test_of_several_each_has_its_own_outcome(tmp_path: Path) -> None:
    outcomes = on_each([LOCAL, LOCAL], Via.DIRECT, tmp_path, broken)
    assert outcomes.devices == (Outcome("local", None, "broken"),) * 2


class OnUsb:
    """Stands for a device on the USB."""

    def __init__(self, serial: str) -> None:
        self.serial = serial


@pytest.mark.parametrize("count", [0, 2])
def test_usb_needs_exactly_one_device(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    found = [(f"S{number}", OnUsb(f"S{number}")) for number in range(count)]
    monkeypatch.setattr(transport, "usb_devices", lambda: found)
    message = (
        r"^2 devices are on the USB \(adb:S0, adb:S1\); name one" if count else r"^no device on the USB; plug it in"
    )
    with pytest.raises(DeviceError, match=message):
        connect(USB)
    with pytest.raises(DeviceError, match=r"^no device 'R58M' on the USB; plug it in"):
        connect(DeviceSpec.parse("adb:R58M"))


def test_all_devices_are_those_on_the_usb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "usb_devices", lambda: [("S0", OnUsb("S0")), ("S1", OnUsb("S1"))])
    assert [str(spec) for spec in all_devices(Via.DIRECT)] == ["adb:S0", "adb:S1"]
    monkeypatch.setattr(fleet, "usb_devices", list)
    with pytest.raises(DeviceError, match=r"^no device was found; plug one in"):
        all_devices(Via.DIRECT)
