"""`sti doctor` on this machine, and on devices that fail."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from host.device_shell import Finished, LocalResult, LocalShell
from host.doctor.check import Check, Level
from host.doctor.examine import Patient, connection_problem, examine, local_patient
from host.doctor.host_checks import host_checks
from host.doctor.judge import Needs
from shard_store.errors import DeviceError
from tests.cli_runs import Sti

EASY = Needs(memory_bytes=0, space_bytes=0, read_mb_s=0)


def examined(patient: Patient) -> dict[str, Check]:
    return {check.name: check for check in examine(patient, lambda *_: None)}


def test_this_machine_is_fine(tmp_path: Path, golden_store: Callable[[str], Path]) -> None:
    store = golden_store("bert-embedding")
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "film").symlink_to(store)
    found = examined(local_patient(tmp_path, EASY))
    assert {name for name, check in found.items() if check.level is Level.PROBLEM} == set()
    assert "tried on a store" in found["executor"].found
    assert list(found)[-2:] == ["read speed", "direct IO"]


def test_without_python_the_shell_still_tells(tmp_path: Path) -> None:
    found = examined(local_patient(tmp_path, EASY, "no-such-python"))
    assert {"folder", "storage", "space", "memory", "clock"} <= set(found)
    assert found["python"].level is Level.PROBLEM
    assert list(found)[-1] == "python"


def test_a_python_without_packages_still_measures(tmp_path: Path) -> None:
    found = examined(local_patient(tmp_path, EASY, f"{sys.executable} -I -S"))
    assert found["packages"].level is found["runtime"].level is found["executor"].level is Level.PROBLEM
    assert "read speed" in found


def test_a_device_that_is_lost_on_the_way_is_a_finding(tmp_path: Path) -> None:
    class Lost(LocalShell):
        def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
            if stdin:
                raise DeviceError("the connection broke; plug the cable in again")
            return super().run(command)

    found = examined(replace(local_patient(tmp_path, EASY), shell=Lost()))
    assert found["connection"] == Check(
        "local", "connection", Level.PROBLEM, "the connection broke", "plug the cable in again"
    )
    assert "memory" in found


def test_a_python_that_dies_of_the_trial_is_a_finding(tmp_path: Path) -> None:
    class Crashing(LocalShell):
        def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
            if "--stores" in command or "--flash" in command:
                return LocalResult(-11, b"", b"Illegal instruction")
            return super().run(command, stdin=stdin)

    found = examined(replace(local_patient(tmp_path, EASY), shell=Crashing()))
    assert found["executor"].level is found["read speed"].level is Level.PROBLEM


def test_an_error_without_advice_points_to_the_docs() -> None:
    assert connection_problem("phone", DeviceError("gone")).remedy == "see docs/devices.md"


def test_the_host_tells_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("host.doctor.host_checks._PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr("host.doctor.host_checks._MIN_FREE_BYTES", 1 << 60)
    monkeypatch.setattr("host.doctor.host_checks.MIN_PYTHON", (4, 0))
    monkeypatch.setitem(sys.modules, "usb1", None)
    found = {check.name: check for check in host_checks(tmp_path / "not" / "yet")}
    assert found["numpy"].level is Level.OK
    assert found["python"].level is found["no-such-package"].level is Level.PROBLEM
    assert found["USB"].level is found["space"].level is Level.WARNING
    assert all(check.remedy for check in found.values() if check.level is not Level.OK)


def test_the_command_prints_every_line_and_exits_by_the_worst(sti: Sti) -> None:
    fine = sti("doctor", "--read-mb-s", 0, "--memory-mb", 0, "--space-mb", 0, "--json")
    assert fine.code == 0
    assert fine.json["level"] in {"ok", "warning"}
    assert {check["where"] for check in fine.json["checks"]} == {"host", "local"}
    bad = sti("doctor", "--memory-mb", 1e9, "--space-mb", 1e9, "--read-mb-s", 1e6)
    assert bad.code == 1
    for line in ("memory +problem", "space +problem", "read speed +warning", "-> close apps, 1000000000 MB"):
        assert any(re.search(line, printed) for printed in bad.out.splitlines()), line
