"""How devices are named."""

import pytest

from host.device_spec import DeviceKind, DeviceSpec
from shard_store.errors import DeviceError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("local", DeviceSpec(DeviceKind.LOCAL)),
        ("usb", DeviceSpec(DeviceKind.USB)),
        ("adb:R58M123ABC", DeviceSpec(DeviceKind.SERIAL, serial="R58M123ABC")),
        ("adb:emulator-5554", DeviceSpec(DeviceKind.SERIAL, serial="emulator-5554")),
        ("adb:192.168.1.7:5555", DeviceSpec(DeviceKind.NETWORK, host="192.168.1.7", port=5555)),
        ("adb:phone.lan:37123", DeviceSpec(DeviceKind.NETWORK, host="phone.lan", port=37123)),
        ("adb:[fe80::1]:5555", DeviceSpec(DeviceKind.NETWORK, host="fe80::1", port=5555)),
    ],
)
def test_every_kind_can_be_named(text: str, spec: DeviceSpec) -> None:
    assert DeviceSpec.parse(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", "adb", "adb:", "phone", "adb:a b", "adb:1.2.3.4:x", "usb:1", "Local", "adb:a;b"])
def test_what_names_no_device_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match=r"names no device; use local, usb, adb:SERIAL or adb:HOST:PORT"):
        DeviceSpec.parse(text)


@pytest.mark.parametrize("port", [0, 65536, 99999])
def test_a_port_must_be_one(port: int) -> None:
    with pytest.raises(DeviceError, match="not between 1 and 65535"):
        DeviceSpec.parse(f"adb:host:{port}")
