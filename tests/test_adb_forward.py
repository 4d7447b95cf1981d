"""Ports of a device, reached through adbd."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from host.adb.connection import AdbConnection, connect
from host.adb.forward import forward
from shard_store.errors import DeviceError
from tests.cli_runs import Sti
from tests.phone import CHECKOUT, PYTHON, Phone

PORT = 8123


@pytest.fixture
def web(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """The phone, with a web server on its 127.0.0.1 that shows its storage."""
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))
    (phone.storage / "page").write_bytes(b"hello" * 100_000)
    command = f"exec {PYTHON} -m http.server -b 127.0.0.1 -d /data/local/tmp {PORT}"
    with connect(phone.spec) as connection:
        server = connection.start(command)
        for _ in range(200):
            with contextlib.suppress(DeviceError):
                connection.open_tcp(PORT).close()
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"no web server: {server.wait(1)}")
        yield phone
        server.close()
        connection.run(f"pkill -f 'http.server.*{PORT}'")


def test_requests_reach_the_device_several_at_once(web: Phone) -> None:
    with forward(lambda: connect(web.spec), PORT) as served:
        answers: list[int] = []

        def ask() -> None:
            answers.append(len(httpx.get(f"{served.url}/page").content))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [500_000] * 4


def test_a_lost_connection_is_renewed(web: Phone) -> None:
    opened: list[AdbConnection] = []

    def connected() -> AdbConnection:
        opened.append(connect(web.spec))
        return opened[-1]

    with forward(connected, PORT) as served:
        assert httpx.get(f"{served.url}/page").status_code == 200
        opened[0].close()
        assert httpx.get(f"{served.url}/page").status_code == 200
        assert len(opened) == 2


def test_nothing_listens_on_the_device(web: Phone) -> None:
    with forward(lambda: connect(web.spec), 9) as served, pytest.raises(httpx.TransportError):
        httpx.get(f"{served.url}/page")


def test_a_local_port_that_is_taken_is_told(phone: Phone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(DeviceError, match=rf"^port {port} cannot be used \(.*\); choose another one$"),
            forward(lambda: connect(phone.spec), PORT, port),
        ):
            pass


def test_the_command_serves_until_it_is_interrupted(web: Phone) -> None:
    command = [sys.executable, "-m", "host.cli", "forward", "--device", str(web.spec), "--port", str(PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/page").status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_without_an_agent_the_port_must_be_named(web: Phone, sti: Sti) -> None:
    done = sti("forward", "--device", web.spec)
    assert done.code == 1
    assert done.err.startswith(f"error: no agent runs on {web.spec}; start one with")
