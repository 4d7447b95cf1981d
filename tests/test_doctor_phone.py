"""`sti doctor` on a phone, with each of its problems provoked there."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli_runs import Sti
from tests.phone import AGENT_PYTHON, CHECKOUT, PYTHON, Phone

Examine = Callable[..., dict[str, Any]]
EASY = {"--memory-mb": 0, "--space-mb": 0, "--read-mb-s": 0, "--python": AGENT_PYTHON}


@pytest.fixture
def examine(sti: Sti, phone: Phone) -> Examine:
    """Findings about the phone by name, and the exit code under `exit`; options replace the easy ones."""

    def run(**options: object) -> dict[str, Any]:
        given = {**EASY, **{f"--{name.replace('_', '-')}": value for name, value in options.items()}}
        words = [word for pair in given.items() for word in pair]
        done = sti("doctor", "--device", phone.spec, "--json", *words)
        found = {check["name"]: check for check in done.json["checks"] if check["where"] == str(phone.spec)}
        assert all((check["remedy"] is None) == (check["level"] == "ok") for check in found.values())
        return {**found, "exit": done.code}

    return run


def inside(phone: Phone, script: str) -> None:
    """Run a script as root among the phone's mounts, which nobody else sees."""
    subprocess.run([*among_mounts(phone), "sh", "-ec", script], check=True, timeout=20)


def among_mounts(phone: Phone) -> tuple[str, ...]:
    return ("nsenter", "-t", str(phone.network.pids()[0]), "-m")


def program(phone: Phone, name: str, script: str) -> Path:
    """A program in the phone's storage."""
    path = phone.storage / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_good_phone_is_fine(examine: Examine) -> None:
    found = examine()
    assert found.pop("exit") == 0
    executor = found.pop("executor")
    assert (executor["level"], "never started" in executor["found"]) == ("warning", True)
    assert {check["level"] for check in found.values()} == {"ok"}
    assert set(found) >= {"connection", "storage", "read speed", "direct IO", "memory", "process limit", "clock"}
    assert "user 2000" in found["system"]["found"]


def test_the_executor_is_tried_once_the_agent_is_there(
    sti: Sti, phone: Phone, examine: Examine, golden_store: Callable[[str], Path]
) -> None:
    assert sti("push", golden_store("bert-embedding"), "--device", phone.spec).code == 0
    assert sti("infer", "the cat", "--device", phone.spec, "--python", AGENT_PYTHON).code == 0
    assert "tried on a store" in examine()["executor"]["found"]


def test_a_phone_that_cannot_be_reached(sti: Sti, phone: Phone) -> None:
    done = sti("doctor", "--device", f"adb:{phone.network.address}:1", "--json")
    (check,) = (check for check in done.json["checks"] if check["where"] != "host")
    assert (done.code, check["name"], check["level"]) == (1, "connection", "problem")
    assert check["remedy"]


def test_no_python(examine: Examine) -> None:
    found = examine(python="no-such-python")
    assert (found["exit"], found["python"]["level"]) == (1, "problem")
    assert {"storage", "memory", "clock"} <= set(found)
    assert "executor" not in found


def test_an_old_python(examine: Examine, phone: Phone) -> None:
    script = f'{AGENT_PYTHON} "$@" | sed \'s/"python": "[^"]*"/"python": "3.9.1"/\''
    program(phone, "python3.9", script)
    assert examine(python="/data/local/tmp/bin/python3.9")["python"]["level"] == "problem"


def test_a_python_without_packages(examine: Examine) -> None:
    found = examine(python=f"env LD_LIBRARY_PATH=/data/host/python/lib {PYTHON} -S")
    assert found["exit"] == 1
    assert found["runtime"]["level"] == found["packages"]["level"] == "problem"
    assert found["read speed"]["level"] == "ok"


def test_too_little_memory_space_and_speed(examine: Examine) -> None:
    found = examine(memory_mb=1e9, space_mb=1e9, read_mb_s=1e6)
    assert found["exit"] == 1
    assert found["memory"]["level"] == found["space"]["level"] == "problem"
    assert found["read speed"]["level"] == "warning"


def test_a_full_file_system_in_memory(examine: Examine) -> None:
    found = examine(root="/data/small/sti", space_mb=10)
    assert found["storage"]["level"] == "warning" and "tmpfs" in found["storage"]["found"]
    assert found["space"]["level"] == found["read speed"]["level"] == "problem"
    assert "No space left" in found["read speed"]["found"]


def test_a_folder_that_takes_nothing(examine: Examine) -> None:
    found = examine(root="/data/readonly/sti")
    assert found["folder"]["level"] == found["read speed"]["level"] == "problem"


def test_a_file_system_without_direct_reads(examine: Examine, phone: Phone) -> None:
    (phone.storage / "plain").mkdir()
    inside(phone, "mount -t ramfs ramfs /data/local/tmp/plain; chmod 777 /data/local/tmp/plain")
    try:
        found = examine(root="/data/local/tmp/plain")
    finally:
        inside(phone, "umount /data/local/tmp/plain")
    assert found["direct IO"]["level"] == found["storage"]["level"] == "warning"
    assert "buffered" in found["read speed"]["found"]


@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="this kernel has no FUSE")
def test_a_file_system_behind_a_daemon(examine: Examine, phone: Phone) -> None:
    (phone.storage / "sdcard").mkdir()
    command = (sys.executable, str(CHECKOUT / "tests" / "fuse.py"), "/data/local/tmp/sdcard")
    with subprocess.Popen([*among_mounts(phone), *command], stdout=subprocess.PIPE) as daemon:
        try:
            assert daemon.stdout and daemon.stdout.readline() == b"mounted\n"
            found = examine(root="/data/local/tmp/sdcard/sti")
        finally:
            inside(phone, "umount -l /data/local/tmp/sdcard")
            daemon.terminate()
    assert found["exit"] == 1
    assert found["storage"]["level"] == found["read speed"]["level"] == "problem"
    assert found["storage"]["found"].startswith("fuse")
    assert found["space"]["level"] == "ok"


@pytest.mark.parametrize(("monitor", "limit", "level"), [("null", "null", "warning"), ("false", "null", "ok")])
def test_android_that_kills_processes_and_a_wrong_clock(
    examine: Examine, phone: Phone, monitor: str, limit: str, level: str
) -> None:
    program(phone, "getprop", '[ "$1" = ro.build.version.release ] && echo 14')
    program(phone, "settings", f"echo {monitor}")
    program(phone, "device_config", f"echo {limit}")
    program(phone, "date", "echo 1000000000")
    inside(phone, "mount --bind /data/local/tmp/bin /usr/local/bin")
    try:
        found = examine()
    finally:
        inside(phone, "umount /usr/local/bin")
    assert found["process limit"]["level"] == level
    assert found["clock"]["level"] == "problem"
    assert found["system"]["found"].startswith("Android 14")
