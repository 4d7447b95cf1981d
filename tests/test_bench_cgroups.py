"""Control groups: made with the right limits in both versions, removed again, missing without rights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.bench import cgroups
from host.bench.cgroups import ROOT, Limits, limited


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_REMOVE_SECONDS", 0.0)  # ordinary folders with files are not removed


def hierarchy(root: Path, *names: str) -> Path:
    for name in names:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("")
    return root


def test_version_1_has_a_group_per_controller(tmp_path: Path) -> None:
    root = hierarchy(tmp_path, "blkio", "cpu")
    with limited(Limits(84_000_000), "254:0", root) as group:
        group.add(42)
        assert group.in_force == Limits(84_000_000)
    name = f"sti-bench-{os.getpid()}"
    assert (root / "blkio" / name / "blkio.throttle.read_bps_device").read_text() == "254:0 84000000"
    assert (root / "cpu" / name / "cpu.shares").read_text() == "262144"
    assert [(root / top / name / "cgroup.procs").read_text() for top in ("blkio", "cpu")] == ["42", "42"]


def test_version_2_has_one_group(tmp_path: Path) -> None:
    root = hierarchy(tmp_path, ".")
    with limited(Limits(200_000_000), "254:0", root) as group:
        assert len(group.folders) == 1
        assert group.in_force == Limits(200_000_000)
    assert (group.folders[0] / "io.max").read_text() == "254:0 rbps=200000000"
    assert (group.folders[0] / "cpu.weight").read_text() == "10000"


def test_what_the_kernel_does_not_take_is_not_in_force(tmp_path: Path) -> None:
    with limited(Limits(84_000_000), "254:0", tmp_path) as group:
        group.add(os.getpid())
        assert (group.folders, group.in_force) == ((), Limits())
    root = hierarchy(tmp_path / "other", "blkio", "cpu")
    with limited(Limits(84_000_000), None, root) as group:
        assert group.in_force == Limits()
    assert [(path / "cpu.shares").read_text() for path in group.folders] == ["262144"]


@pytest.mark.skipif(not os.access(ROOT, os.W_OK), reason="needs root and control groups")
def test_the_kernel_takes_the_group_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_REMOVE_SECONDS", 2.0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as child:
        with limited(Limits(), None) as group:
            if not group.folders:
                pytest.skip("no processor controller here")
            group.add(child.pid)
            assert str(child.pid) in (group.folders[0] / "cgroup.procs").read_text().split()
        assert not group.folders[0].exists()
        child.communicate("\n")
    assert child.returncode == 0
