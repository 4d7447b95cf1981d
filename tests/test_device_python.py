"""Finding a device's Python."""

import sys
from pathlib import Path

import pytest

from device_agent.requirements import names
from host.device_python import ask_python, candidates, find_python
from host.device_shell import LocalShell


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A Python without any packages."""
    path = tmp_path / "a bare python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    path.chmod(0o755)
    return f"'{path}'"


@pytest.fixture
def old(tmp_path: Path) -> str:
    path = tmp_path / "old"
    path.write_text(f'#!/bin/sh\n{sys.executable} "$@" | sed \'s/"python": "[^"]*"/"python": "3.9.1"/\'\n')
    path.chmod(0o755)
    return str(path)


def test_a_python_tells_its_versions() -> None:
    facts = ask_python(LocalShell(), sys.executable)
    assert facts is not None
    assert set(facts.versions) == set(names())
    assert not facts.missing and not facts.old


@pytest.mark.parametrize("command", ["no-such-python", "true", "echo {}", "false"])
def test_what_is_no_python_is_none(command: str) -> None:
    assert ask_python(LocalShell(), command) is None


def test_one_that_is_fit_is_preferred(bare: str, old: str) -> None:
    found = find_python(LocalShell(), ("no-such-python", bare, old, sys.executable))
    assert found is not None and found.fit and found.command == sys.executable


def test_one_that_is_not_fit_is_better_than_none(bare: str, old: str) -> None:
    found = find_python(LocalShell(), ("no-such-python", bare, old))
    assert found is not None and found.command == bare and not found.fit
    assert "numpy>=2.2,<3" in found.facts.missing
    aged = find_python(LocalShell(), (old,))
    assert aged is not None and aged.facts.old and not aged.fit


def test_none_at_all() -> None:
    assert find_python(LocalShell(), ("no-such-python",)) is None


def test_the_command_that_is_given_is_the_only_candidate() -> None:
    assert candidates("/x/a venv", "proot-distro login debian -- python3") == ("proot-distro login debian -- python3",)
    assert candidates("/x/a venv")[0] == "'/x/a venv/bin/python'"
