"""Devices through the server of Debian's adb."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.adb.connection import AdbConnection, Via, connect
from host.adb.files import AdbFiles
from host.adb.line import AdbLine
from host.adb.server import server_devices
from host.device_spec import DeviceSpec
from host.fleet import all_devices
from host.push import WAITS_S, push
from shard_store.errors import DeviceError
from shard_store.reader import Store
from tests.big_store import write_big_store
from tests.phone import Phone
from tests.stores import write_store


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def server(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """The phone, and an adb server that knows no device yet."""
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    started = phone.adb("start-server", server_port=port)
    assert started.returncode == 0, started.stderr
    yield phone
    phone.adb("kill-server", server_port=port)


@pytest.fixture
def connection(server: Phone) -> Iterator[AdbConnection]:
    with connect(server.spec, Via.ADB) as opened:
        yield opened


def test_commands_bring_exit_codes_and_much_data(connection: AdbConnection) -> None:
    result = connection.run("id -u; echo wrong >&2; exit 3")
    assert (result.exit_code, result.text, result.reason) == (3, "2000\n", "wrong")
    data = os.urandom(3 << 20)
    assert connection.run("cat", stdin=data).out == data


def test_a_port_where_nothing_listens_is_refused(connection: AdbConnection) -> None:
    with pytest.raises(DeviceError, match=r"^adb: closed"):
        connection.open_tcp(9)


def test_a_push_arrives(server: Phone, tmp_path: Path) -> None:
    write_store(tmp_path / "store", bitwidths=(2,))
    line = AdbLine(server.spec, Via.ADB)
    push(tmp_path / "store", AdbFiles(line), lambda *_: None)
    with Store.open(server.storage / "sti/stores/small") as store:
        store.verify()
    assert [str(spec) for spec in all_devices(Via.ADB)] == [str(server.spec)]


def test_a_push_survives_a_restart_of_adbd(server: Phone, tmp_path: Path) -> None:
    store = write_big_store(tmp_path / "store", seed=0)
    line = AdbLine(server.spec, Via.ADB)
    struck = False

    def strike(stage: str, done: int, total: int) -> None:
        nonlocal struck
        if stage == "send" and done > 8 << 20 and not struck:
            struck = True
            server.kill()

    def restart(wait_s: float) -> None:
        if wait_s == WAITS_S[0]:
            server.restart()
        time.sleep(0.5)

    assert push(store, AdbFiles(line), strike, sleep=restart).tries >= 2
    with Store.open(server.storage / "sti/stores/big") as opened:
        opened.verify()


def test_a_device_that_the_server_does_not_know(server: Phone) -> None:
    assert server_devices() == []
    with pytest.raises(DeviceError, match=r"^adb: device 'R58M' not found; see `adb devices`"):
        connect(DeviceSpec.parse("adb:R58M"), Via.ADB)
    with pytest.raises(DeviceError, match=r"^adb: .*(no devices|not found).*;"):
        connect(DeviceSpec.parse("usb"), Via.ADB)
    with pytest.raises(DeviceError, match=r"^adb: failed to connect to .*; check the address, or pair first"):
        connect(DeviceSpec.parse(f"adb:{server.network.address}:9"), Via.ADB)
    with pytest.raises(DeviceError, match="no device was found"):
        all_devices(Via.ADB)


def test_without_server_and_program_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match=r"^no adb server runs and there is no `adb` to start; install it"):
        connect(DeviceSpec.parse("adb:R58M"), Via.ADB)


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (
            "device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS",
            r"^adb: device unauthorized; accept this computer's",
        ),
        ("device offline", r"^adb: device offline; reconnect it"),
        ("more than one device/emulator", r"^adb: more than one device/emulator; name one with --device adb:SERIAL"),
        ("something new", r"^adb: something new; see `adb devices`"),
    ],
)
def test_what_the_server_refuses_is_told(reason: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))

        def refuse() -> None:
            listener.accept()[0].close()  # who only looks whether there is a server
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"FAIL%04x%s" % (len(reason), reason.encode()))

        server = threading.Thread(target=refuse)
        server.start()
        with pytest.raises(DeviceError, match=message):
            connect(DeviceSpec.parse("adb:R58M"), Via.ADB)
        server.join()
