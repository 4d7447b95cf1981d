"""The agent of a device that is reached by its shell; here by the shell of this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from host.adb.agent import ShellAgent
from host.adb.installation import Installation
from host.client import AgentClient
from host.device_shell import Finished, LocalResult, LocalShell
from shard_store.errors import DeviceError

StoreOf = Callable[[str], Path]


def here(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def agent_in(folder: Path, python: str = sys.executable) -> ShellAgent:
    shell = LocalShell()
    return ShellAgent(shell, Installation(shell, str(folder), python), here)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "an agent's folder"


@pytest.fixture
def agent(folder: Path) -> Iterator[ShellAgent]:
    agent = agent_in(folder)
    yield agent
    agent.stop()


def test_nothing_runs_at_first(agent: ShellAgent) -> None:
    assert agent.agent() is None
    assert agent.port() is None
    assert agent.stop() is False
    with pytest.raises(DeviceError, match="no log"):
        agent.log()


def test_an_agent_from_start_to_stop(agent: ShellAgent, folder: Path, golden_store: StoreOf) -> None:
    url = agent.start(str(golden_store("bert-embedding")), ["--bits", "4", "--memory-mb", "64"])
    with AgentClient(url) as client:
        assert client.embed(["the cat"]).sti.bits == (4,)
    running = agent.agent()
    assert running is not None and (running.url, running.store) == (url, "bert-embedding")
    assert here(agent.port() or 0) == url
    assert os.getsid(running.pid) == running.pid != os.getsid(0)  # a session of its own
    assert b"Started server process" in agent.log()
    assert agent.log(-10) == agent.log()[-10:]
    assert agent.log(5) == agent.log()[5:]
    with pytest.raises(DeviceError, match="already serves bert-embedding"):
        agent.start(str(golden_store("bert-embedding")))
    assert agent.stop() is True
    assert agent.agent() is None
    assert not (folder / "agent.json").exists()
    with pytest.raises(DeviceError), AgentClient(url) as client:
        client.health()


def test_an_agent_survives_the_program_that_started_it(agent: ShellAgent, folder: Path, golden_store: StoreOf) -> None:
    code = (
        "import os, sys, signal; from pathlib import Path; from tests.test_adb_agent import agent_in\n"
        "print(agent_in(Path(sys.argv[1])).start(sys.argv[2]), flush=True); os.killpg(0, signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(folder), str(golden_store("bert-embedding"))]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert done.returncode == -signal.SIGKILL
    with AgentClient(done.stdout.strip()) as client:
        assert client.health().status == "ok"
    running = agent.agent()
    assert running is not None and running.url == done.stdout.strip()


def test_the_record_of_a_killed_agent_is_stale(agent: ShellAgent, folder: Path, golden_store: StoreOf) -> None:
    agent.start(str(golden_store("bert-embedding")))
    running = agent.agent()
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    while Path(f"/proc/{running.pid}/cmdline").read_bytes() if Path(f"/proc/{running.pid}").exists() else b"":
        time.sleep(0.01)
    assert (folder / "agent.json").exists()
    assert agent.agent() is None
    assert not (folder / "agent.json").exists()
    agent.start(str(golden_store("bert-embedding")))  # nothing is in its way


def test_another_process_with_the_number_is_left_alone(agent: ShellAgent, folder: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        folder.mkdir()
        (folder / "agent.json").write_text(json.dumps({"pid": other.pid, "url": "http://127.0.0.1:1", "store": "s"}))
        (folder / "agent.pid").write_text(str(other.pid))
        assert agent.agent() is None
        assert agent.stop() is False
        assert other.poll() is None
        other.terminate()


def test_an_agent_that_does_not_obey_is_killed(
    agent: ShellAgent, golden_store: StoreOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.adb.agent.STOP_SECONDS", 1)
    agent.start(str(golden_store("bert-embedding")))
    running = agent.agent()
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    assert agent.stop() is True
    assert agent.agent() is None


def test_the_agents_own_reason_is_told(agent: ShellAgent) -> None:
    with pytest.raises(DeviceError, match=r"did not start: /no such store/manifest.json: cannot be read"):
        agent.start("/no such store")
    with pytest.raises(DeviceError, match=r"did not start: .*unrecognized arguments: --no-such-option"):
        agent.start("/x", ["--no-such-option"])
    assert agent.agent() is None


def test_a_store_that_cannot_be_loaded_is_told(agent: ShellAgent, golden_store: StoreOf) -> None:
    with pytest.raises(DeviceError, match=r"cannot load the store: .*too small"):
        agent.start(str(golden_store("bert-embedding")), ["--memory-mb", "0.5"])
    assert agent.agent() is None


@pytest.mark.parametrize("content", ["", "{}", '{"pid": "x"}'])
def test_a_record_that_cannot_be_read_is_told(agent: ShellAgent, folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "agent.json").write_text(content)
    with pytest.raises(DeviceError, match="cannot be read; remove it"):
        agent.agent()
    (folder / "agent.json").unlink()


def test_a_process_that_never_comes_to_be_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.adb.agent._BIRTH_SECONDS", 0.0)
    shell = Canned("setsid", LocalResult(0, b"", b""))
    agent = ShellAgent(shell, Installation(shell, str(folder), sys.executable), here)
    folder.mkdir()
    (folder / "agent.log").write_text("setsid: exec sh: No such file or directory\n")
    with pytest.raises(DeviceError, match="did not start: setsid: exec sh: No such file"):
        agent.start("/x")


def test_an_agent_that_dies_while_it_loads_is_told(folder: Path, golden_store: StoreOf) -> None:
    def killed(port: int) -> str:
        os.kill(json.loads((folder / "agent.json").read_text())["pid"], signal.SIGKILL)
        return here(port)

    shell = LocalShell()
    agent = ShellAgent(shell, Installation(shell, str(folder), sys.executable), killed)
    with pytest.raises(DeviceError, match="ended while it loaded the store"):
        agent.start(str(golden_store("bert-embedding")))


def test_an_agent_that_cannot_be_reached_is_given_up(
    folder: Path, golden_store: StoreOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_: int) -> str:
        monkeypatch.setattr("host.adb.agent.START_SECONDS", 0.5)
        return "http://127.0.0.1:1"

    shell = LocalShell()
    agent = ShellAgent(shell, Installation(shell, str(folder), sys.executable), unreachable)
    with pytest.raises(DeviceError, match="did not load the store within"):
        agent.start(str(golden_store("bert-embedding")))
    assert agent.port() is None


class Canned(LocalShell):
    """Answers commands that contain a word with something of its own."""

    def __init__(self, word: str, result: Finished) -> None:
        self._word = word
        self._result = result

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
        return self._result if self._word in command else super().run(command, stdin=stdin, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("word", "result", "message"),
    [
        ("setsid", LocalResult(1, b"", b"cd: no such folder\n"), "cannot start the agent: cd: no such folder"),
        ("head -n 1", LocalResult(0, b'{"event": "error"}\n', b""), "is no agent"),
        ("head -n 1", LocalResult(0, b'{"event": "listening", "url": "http://x"}\n', b""), "no port"),
    ],
)
def test_a_device_that_answers_something_else(folder: Path, word: str, result: Finished, message: str) -> None:
    shell = Canned(word, result)
    agent = ShellAgent(shell, Installation(shell, str(folder), sys.executable), here)
    with pytest.raises(DeviceError, match=message):
        agent.start("/x")
    agent.stop()
