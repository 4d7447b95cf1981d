"""Facts about a device, judged."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from device_agent.requirements import REQUIREMENTS
from host.device_python import DevicePython, ExecutorFound, Flash, PythonFacts
from host.doctor.check import Check, Level, diagnosis
from host.doctor.judge import Judge, Needs
from host.doctor.shell_facts import Android, ShellFacts

JUDGE = Judge("phone", Needs(memory_bytes=100, space_bytes=1000, read_mb_s=50))
GOOD = ShellFacts(
    folder="/data/local/tmp/sti", writable=True, machine="aarch64", user=2000, file_system="f2fs",
    mounted_from="/dev/block/dm-5", free_bytes=1000, memory_bytes=400, available_bytes=100, ahead_s=-1.0,
    android=Android(14, "1d84000.ufshc", None, limited=False),
)  # fmt: skip
VERSIONS = {
    requirement.partition(">=")[0]: requirement.partition(">=")[2].partition(",")[0] for requirement in REQUIREMENTS
}
PYTHON = PythonFacts("3.11.2", "/usr/bin/python3", VERSIONS)


def by_name(checks: Iterable[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_good_device_is_fine() -> None:
    checks = by_name(JUDGE.shell(GOOD))
    assert {check.level for check in checks.values()} == {Level.OK}
    assert {check.remedy for check in checks.values()} == {None}
    assert checks["system"].found == "Android 14, aarch64, user 2000"
    assert checks["storage"].found == "f2fs, /dev/block/dm-5, 1d84000.ufshc"


@pytest.mark.parametrize(
    ("name", "level", "change"),
    [
        ("folder", Level.PROBLEM, {"writable": False}),
        ("storage", Level.PROBLEM, {"file_system": "fuse"}),
        ("storage", Level.PROBLEM, {"file_system": "fuse.sshfs"}),
        ("storage", Level.PROBLEM, {"file_system": "sdcardfs"}),
        ("storage", Level.WARNING, {"file_system": "tmpfs"}),
        ("storage", Level.WARNING, {"file_system": "nfs4"}),
        ("storage", Level.OK, {"file_system": "unknown"}),
        ("space", Level.PROBLEM, {"free_bytes": 999}),
        ("space", Level.WARNING, {"free_bytes": None}),
        ("memory", Level.PROBLEM, {"available_bytes": 99}),
        ("memory", Level.WARNING, {"available_bytes": None}),
        ("clock", Level.WARNING, {"ahead_s": 6.0}),
        ("clock", Level.WARNING, {"ahead_s": -299.0}),
        ("clock", Level.PROBLEM, {"ahead_s": 301.0}),
        ("process limit", Level.WARNING, {"android": Android(12, "", None, limited=True)}),
        ("process limit", Level.WARNING, {"android": Android(14, "", 64, limited=True)}),
        ("process limit", Level.OK, {"android": Android(14, "", 2147483647, limited=True)}),
        ("process limit", Level.OK, {"android": Android(11, "", None, limited=True)}),
        ("process limit", Level.OK, {"android": None}),
    ],
)
def test_each_fault_has_a_level_and_a_remedy(name: str, level: Level, change: dict[str, object]) -> None:
    facts = replace(GOOD, **change)  # type: ignore[arg-type]
    check = by_name(JUDGE.shell(facts))[name]
    assert check.level is level
    assert (check.remedy is None) is (level is Level.OK)


def python_checks(**change: object) -> dict[str, Check]:
    return by_name(JUDGE.python(DevicePython("python3", replace(PYTHON, **change))))  # type: ignore[arg-type]


def test_a_fit_python_is_fine() -> None:
    checks = python_checks()
    assert {check.level for check in checks.values()} == {Level.OK}
    assert checks["runtime"].found == "ai-edge-litert 2.3"


def test_no_python() -> None:
    (check,) = JUDGE.python(None)
    assert (check.name, check.level) == ("python", Level.PROBLEM)


def test_an_old_python_ends_the_examination() -> None:
    (check,) = python_checks(python="3.9.2").values()
    assert check.level is Level.PROBLEM
    assert check.remedy is not None and "3.10" in check.remedy


@pytest.mark.parametrize("version", [None, "2.2.0"])
def test_a_runtime_that_is_missing_or_old(version: str | None) -> None:
    checks = python_checks(versions={**VERSIONS, "ai-edge-litert": version})
    assert checks["runtime"].level is checks["packages"].level is Level.PROBLEM
    assert checks["packages"].found == "not met: ai-edge-litert>=2.3,<2.4"


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (ExecutorFound("in-place", proven=True), Level.OK),
        (ExecutorFound("in-place"), Level.OK),
        (ExecutorFound("constant", proven=True), Level.WARNING),
        (ExecutorFound(error="no TFLite runtime found"), Level.PROBLEM),
        (ExecutorFound(error="No module named 'device_agent'", installed=False), Level.WARNING),
    ],
)
def test_executors(found: ExecutorFound, level: Level) -> None:
    (check,) = JUDGE.executor(found)
    assert check.level is level


def test_reads() -> None:
    good = by_name(JUDGE.flash(Flash(50.0, direct=True)))
    assert [check.level for check in good.values()] == [Level.OK, Level.OK]
    slow = by_name(JUDGE.flash(Flash(49.9, direct=False)))
    assert [check.level for check in slow.values()] == [Level.WARNING, Level.WARNING]
    (none,) = JUDGE.flash(Flash(error="No space left on device"))
    assert none.level is Level.PROBLEM and "No space left" in none.found


def test_the_worst_finding_is_the_diagnosis() -> None:
    checks = [Check("phone", "x", level, "") for level in (Level.OK, Level.PROBLEM, Level.WARNING)]
    assert diagnosis(checks).level is Level.PROBLEM
    assert diagnosis(checks[::2]).level is Level.WARNING
    assert diagnosis([]).level is Level.OK
