"""What a device's Python finds out about it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent import doctor
from device_agent.litert import Runtime
from shard_store.errors import ExecutorError

CHECKOUT = Path(__file__).parents[1]
SOURCE = Path(doctor.__file__)


def test_the_script_needs_no_package_and_reads_its_options(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-", "--flash", str(tmp_path), "--chunks", "2", "numpy", "no-such-thing"]
    done = subprocess.run(command, input=SOURCE.read_bytes(), cwd=tmp_path, capture_output=True, check=True)
    facts = json.loads(done.stdout)
    assert facts["versions"] == {"numpy": None, "no-such-thing": None}  # -S: without the site's packages
    assert facts["python"].startswith("3.")
    assert facts["flash"]["read_mb_s"] > 0
    assert "executor" not in facts
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_direct_reads_is_read_buffered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_DIRECT")
    assert doctor.measure_flash(tmp_path, 2)["direct"] is False


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert doctor.measure_flash(tmp_path / "gone") == {"error": "No such file or directory"}


def test_the_executor_is_tried_on_a_store(golden_store: Callable[[str], Path]) -> None:
    store = golden_store("bert-embedding")
    assert doctor.find_executor(store.parent)["proven"] is True


def test_without_a_store_it_is_a_guess(tmp_path: Path) -> None:
    assert doctor.find_executor(tmp_path) == {"name": "in-place", "proven": False}


def test_a_runtime_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Runtime, threads: int = 1) -> None:
        raise ExecutorError("no TFLite runtime found")

    monkeypatch.setattr(Runtime, "__init__", refuse)
    assert doctor.find_executor(tmp_path) == {"error": "no TFLite runtime found"}


def test_a_device_without_the_agent_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-", "--stores", str(tmp_path)]
    done = subprocess.run(command, input=SOURCE.read_bytes(), cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["executor"] == {"error": "No module named 'device_agent'", "installed": False}
