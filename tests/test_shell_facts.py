"""What a device's shell tells."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from host.device_shell import Finished, LocalResult, LocalShell
from host.doctor.shell_facts import Android, shell_facts
from shard_store.errors import DeviceError

ANSWER = """folder=/storage/emulated/0/sti
writable=no
clock=1000
machine=aarch64
user=2000
df=/dev/fuse 1000 200 800 20% /storage/emulated
mount=/dev/block/dm-5 / ext4 ro 0 0
mount=tmpfs /storage tmpfs rw 0 0
mount=/dev/fuse /storage/emulated fuse rw,user_id=0 0 0
mount=/dev/fuse /storage/emu fuse.other rw 0 0
memory=MemTotal:        4000 kB
memory=MemAvailable:    1000 kB
"""


@dataclass
class Answering:
    """A device whose shell prints what it is told to."""

    out: str
    err: str = ""

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
        return LocalResult(0, self.out.encode(), self.err.encode())


def test_this_machine_answers(tmp_path: Path) -> None:
    facts = shell_facts(LocalShell(), str(tmp_path / "not yet" / "there's one"))
    assert (facts.folder, facts.user, facts.machine) == (str(tmp_path.resolve()), os.getuid(), os.uname().machine)
    assert facts.writable and facts.file_system
    assert facts.free_bytes and facts.available_bytes and facts.memory_bytes
    assert abs(facts.ahead_s) < 60


def test_a_clock_that_is_off_is_measured(tmp_path: Path) -> None:
    assert shell_facts(LocalShell(), str(tmp_path), lambda: time.time() - 1000).ahead_s == pytest.approx(1000, abs=30)


def test_all_lines_are_read() -> None:
    facts = shell_facts(Answering(ANSWER), "/sdcard/sti", lambda: 990.0)
    assert (facts.file_system, facts.mounted_from, facts.writable) == ("fuse", "/dev/fuse", False)
    assert (facts.free_bytes, facts.memory_bytes, facts.available_bytes) == (800 << 10, 4000 << 10, 1000 << 10)
    assert facts.ahead_s == 10.0
    assert facts.android is None


@pytest.mark.parametrize(
    ("lines", "android"),
    [
        ("android=14\nboot_device=x\nmonitor=false\nlimit=null\n", Android(14, "x", None, limited=False)),
        ("android=12.1\nmonitor=null\nlimit=64\n", Android(12, "", 64, limited=True)),
        ("android=R\n", Android(0, "", None, limited=True)),
        ("android=\n", None),
    ],
)
def test_android(lines: str, android: Android | None) -> None:
    assert shell_facts(Answering(ANSWER + lines), "/x", lambda: 0.0).android == android


def test_a_device_that_does_not_say_is_not_guessed_at() -> None:
    scarce = "folder=/x\nwritable=yes\nclock=1\nmachine=m\nuser=1\nmemory=MemTotal: 1 kB\nmount=odd\n"
    facts = shell_facts(Answering(scarce), "/x", lambda: 0.0)
    assert (facts.free_bytes, facts.available_bytes, facts.file_system) == (None, None, "unknown")


@pytest.mark.parametrize("out", ["", "what?\n", ANSWER.replace("clock=1000", "clock=noon")])
def test_a_shell_that_answers_something_else_is_an_error(out: str) -> None:
    with pytest.raises(DeviceError, match="does not answer as expected: sh: no such command"):
        shell_facts(Answering(out, "oh\nsh: no such command\n"), "/x")


def test_a_command_that_hangs_is_an_error() -> None:
    with pytest.raises(DeviceError, match="did not end"):
        LocalShell().run("sleep 5", timeout_s=0.1)
