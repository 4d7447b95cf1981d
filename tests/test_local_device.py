"""The agent of the local device, without a model: what it does with one is in test_end_to_end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.agent_session import agent_session, only_store
from host.local_device import LocalDevice
from host.push import push
from host.versions import store_names
from shard_store.errors import DeviceError
from tests.stores import write_store

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDevice:
    monkeypatch.chdir(CHECKOUT)  # where the agent finds its package even if that is not installed
    return LocalDevice(tmp_path / "device")


@pytest.fixture
def broken(device: LocalDevice, tmp_path: Path) -> str:
    """A store that can be opened, but has no usable tokenizer."""
    write_store(tmp_path / "store", bitwidths=(8,))
    return push(tmp_path / "store", device, lambda *_: None).name


def remember(device: LocalDevice, pid: int, url: str) -> Path:
    device.root.mkdir(parents=True, exist_ok=True)
    path = device.root / "agent.json"
    path.write_text(json.dumps({"pid": pid, "url": url, "store": "s"}))
    return path


def test_no_agent_runs_at_first(device: LocalDevice) -> None:
    assert device.agent() is None
    assert not device.stop_agent()


def test_a_store_that_is_not_there_is_named(device: LocalDevice) -> None:
    with pytest.raises(DeviceError, match="has no store 'minilm'; push it"):
        device.start_agent("minilm")


def test_a_store_that_cannot_be_loaded_is_the_reason(device: LocalDevice, broken: str) -> None:
    with pytest.raises(DeviceError, match=r"^the agent cannot load the store: .*tokenizer.json"):
        device.start_agent(broken)
    assert device.agent() is None


def test_an_agent_that_ends_at_once_leaves_its_last_words(device: LocalDevice, broken: str) -> None:
    with pytest.raises(DeviceError, match=r"^the agent did not start: .*unrecognized arguments: --nonsense$"):
        device.start_agent(broken, ["--nonsense"])
    with pytest.raises(DeviceError, match=r"^the agent did not start: plan /none: cannot be read"):
        device.start_agent(broken, ["--plan", "/none"])


def test_the_record_of_a_dead_agent_is_forgotten(device: LocalDevice) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    record = remember(device, int(ended.stdout), "http://127.0.0.1:9")
    assert device.agent() is None
    assert not record.exists()


def test_a_process_that_is_no_agent_is_not_stopped(device: LocalDevice) -> None:
    record = remember(device, os.getpid(), "http://127.0.0.1:9")
    assert not device.stop_agent()
    assert not record.exists()


def test_a_zombie_is_not_alive(device: LocalDevice) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        remember(device, child.pid, "http://127.0.0.1:9")
        assert device.agent() is None


@pytest.mark.parametrize("content", ["", "{}", '{"pid": "x", "url": 1, "store": 2}'])
def test_a_record_that_cannot_be_read_is_told(device: LocalDevice, content: str) -> None:
    remember(device, 1, "").write_text(content)
    with pytest.raises(DeviceError, match=r"agent.json cannot be read; remove it$"):
        device.agent()


def test_the_only_store_needs_no_name(device: LocalDevice, broken: str) -> None:
    assert only_store(device) == broken
    for name in ("other", ".other.new"):
        (device.root / "stores" / name).mkdir()
    assert store_names(device) == ["other", "small"]
    with pytest.raises(DeviceError, match=r"has 2 stores \(other, small\); name one with --store"):
        only_store(device)


def test_a_device_without_stores_says_so(device: LocalDevice) -> None:
    with pytest.raises(DeviceError, match="has no store; push one"), agent_session(device):
        pass
