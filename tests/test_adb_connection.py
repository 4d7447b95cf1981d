"""Connections to a real adbd."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.adb.connection import AdbConnection, Via, connect
from host.device_spec import DeviceSpec
from shard_store.errors import ConnectionLost, DeviceError
from tests.phone import Phone


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))


@pytest.fixture
def connection(phone: Phone) -> Iterator[AdbConnection]:
    with connect(phone.spec) as opened:
        yield opened


def test_a_command_brings_its_exit_code_and_both_outputs(connection: AdbConnection) -> None:
    result = connection.run("id -u; echo wrong >&2; exit 3")
    assert (result.exit_code, result.text, result.reason) == (3, "2000\n", "wrong")


def test_much_data_goes_both_ways_over_a_small_mtu(connection: AdbConnection) -> None:
    data = os.urandom(8 << 20)
    assert connection.run("cat", stdin=data).out == data


def test_streams_do_not_wait_for_each_other(connection: AdbConnection) -> None:
    slow = connection.start("cat; echo end")
    assert connection.run("echo quick").text == "quick\n"
    slow.close_stdin()
    assert slow.wait(10).text == "end\n"


def test_a_command_that_takes_too_long_is_given_up(connection: AdbConnection) -> None:
    with pytest.raises(ConnectionLost, match="not answered"):
        connection.run("sleep 5", timeout_s=0.2)
    assert connection.run("echo well").text == "well\n"


def test_a_port_where_nothing_listens_is_refused(connection: AdbConnection) -> None:
    with pytest.raises(DeviceError, match="refuses 'tcp'"):
        connection.open_tcp(9)


def test_a_killed_adbd_is_a_lost_connection(phone: Phone, connection: AdbConnection) -> None:
    killer = threading.Timer(0.2, phone.kill)
    killer.start()
    try:
        with pytest.raises(ConnectionLost, match=str(phone.spec)):
            connection.run("sleep 20")
        with pytest.raises(ConnectionLost):
            connection.run("true")
    finally:
        killer.join()
        phone.restart()


def test_a_pulled_cable_is_a_lost_connection(phone: Phone) -> None:
    with connect(phone.spec, stall_s=1.0) as connection:
        phone.network.unplug()
        try:
            with pytest.raises(ConnectionLost):
                connection.run("true")
        finally:
            phone.network.plug()


def test_nobody_at_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(DeviceError, match=rf"^no device at 127.0.0.1:{port} \(.*refused.*\); check the address"):
        connect(DeviceSpec.parse(f"adb:127.0.0.1:{port}"))


def test_the_local_device_needs_no_connection() -> None:
    with pytest.raises(DeviceError, match="directory of this machine"):
        connect(DeviceSpec.parse("local"), Via.DIRECT)
