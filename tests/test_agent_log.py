"""The agent's log, in parts."""

from pathlib import Path

import pytest

from host.agent_log import follow, last_lines
from host.device import RunningAgent
from host.local_device import LocalDevice
from shard_store.errors import DeviceError


@pytest.mark.parametrize(("lines", "shown"), [(0, b""), (1, b"three"), (2, b"two\nthree"), (9, b"one\ntwo\nthree")])
def test_the_last_lines(lines: int, shown: bytes) -> None:
    assert last_lines(b"one\ntwo\nthree", lines) == shown


class Device(LocalDevice):
    """An agent that logs one of the words at each pause, then ends."""

    def __init__(self, root: Path, words: list[str]) -> None:
        super().__init__(root)
        self._words = words

    def agent(self) -> RunningAgent | None:
        return RunningAgent(1, "http://127.0.0.1:1", "film") if self._words else None

    def log_more(self) -> None:
        with (self.root / "agent.log").open("a") as log:
            log.write(self._words.pop(0))


def test_a_log_is_followed_until_the_agent_ends(tmp_path: Path) -> None:
    (tmp_path / "agent.log").write_text("before\n")
    device = Device(tmp_path, ["a\n", "b\n", "c\n"])
    assert b"".join(follow(device, 7, device.log_more)) == b"a\nb\nc\n"


@pytest.mark.parametrize(("offset", "part"), [(0, b"0123"), (2, b"23"), (9, b""), (-1, b"3"), (-9, b"0123")])
def test_the_local_log_from_any_place(tmp_path: Path, offset: int, part: bytes) -> None:
    (tmp_path / "agent.log").write_bytes(b"0123")
    assert LocalDevice(tmp_path).agent_log(offset) == part


def test_a_device_without_a_log_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="start an agent"):
        LocalDevice(tmp_path).agent_log()
