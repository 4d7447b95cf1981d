"""`sti-agent`: its arguments, its errors, its life as a process."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.cli import main, make_parser
from device_agent.listener import listen
from host.client import AgentClient
from tests.http_server import eventually
from tests.stores import write_store

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "small"
    write_store(path, bitwidths=(8,))
    return path


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int | str | None, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    return stopped.value.code, captured.err


def test_defaults_are_those_of_the_engine() -> None:
    options = make_parser().parse_args(["serve", "--store", "x"])
    assert (options.host, options.port, options.threads, options.agents) == ("127.0.0.1", 8765, 1, None)
    assert (options.layers_in_flight, options.direct, options.memory_mb) == (2, False, None)
    assert make_parser().parse_args(["serve", "--store", "x", "--direct"]).direct


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["serve", "--store", "x", "--port", "65536"],
        ["serve", "--store", "x", "--port", "-1"],
        ["serve", "--store", "x", "--threads", "0"],
        ["serve", "--store", "x", "--agents", "17"],
        ["serve", "--store", "x", "--memory-mb", "nan"],
        ["serve", "--store", "x", "--memory-mb", "0"],
        ["serve", "--store", "x", "--throttle-mb-s", "fast"],
        ["serve", "--store", "x", "--bits", "eight"],
        ["serve", "--store", "x", "--direct", "--buffered"],
        ["serve", "--store", "x", "--log-level", "loud"],
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, message = failure(capsys, *arguments)
    assert code == 2
    assert message.startswith("usage: ")


def test_what_cannot_be_served_exits_with_1_and_one_line(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "layers": [{"layer": 0, "bitwidths": [8]}]}')
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        for arguments, expected in (
            (["--store", str(tmp_path / "none")], "none/manifest.json"),
            (["--store", str(store), "--plan", str(tmp_path / "none")], "cannot be read"),
            (["--store", str(store), "--plan", str(plan), "--bits", "8"], "either a plan or"),
            (["--store", str(store), "--port", port], f"cannot listen on '127.0.0.1', port {port}"),
        ):
            code, message = failure(capsys, "serve", *arguments)
            assert code == 1
            assert message.startswith("error: ")
            assert expected in message
            assert message.count("\n") == 1


@pytest.fixture
def agent(store: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "device_agent.cli", "serve", "--store", str(store), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_agent_says_where_it_listens_stays_up_and_stops_when_told(
    agent: "subprocess.Popen[str]", number: signal.Signals
) -> None:
    assert agent.stdout
    announced = json.loads(agent.stdout.readline())
    assert announced["event"] == "listening"
    with AgentClient(announced["url"]) as client:
        eventually(lambda: client.health().status != "loading")
        health = client.health()
    assert (health.status, health.pid) == ("failed", agent.pid)  # this store's tokenizer is of no use
    assert "tokenizer.json" in str(health.reason)
    agent.send_signal(number)
    rest, log = agent.communicate(timeout=30)
    assert agent.returncode == 0
    assert rest == ""
    assert "Traceback" not in log
