"""The Python of a device: which one there is, and whether it has what the agent needs."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

import device_agent.doctor
from device_agent.requirements import MIN_PYTHON, names, unmet
from host.device_shell import Shell

PYTHON_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Flash:
    """Cold reads of a file written for the purpose, or why there were none."""

    read_mb_s: float | None = None
    direct: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ExecutorFound:
    """The executor of int8 layers, whether it was tried on a store, or why there is none."""

    name: str | None = None
    proven: bool = False
    error: str | None = None
    installed: bool = True  # the agent


@dataclass(frozen=True, slots=True)
class PythonFacts:
    """A device as its Python sees it."""

    python: str
    executable: str
    versions: Mapping[str, str | None]
    flash: Flash | None = None
    executor: ExecutorFound | None = None

    @property
    def old(self) -> bool:
        """Whether the agent needs a newer Python."""
        return tuple(int(part) for part in self.python.split(".")[:2]) < MIN_PYTHON

    @property
    def missing(self) -> tuple[str, ...]:
        """What of the agent's requirements is not installed."""
        return unmet(self.versions)


@dataclass(frozen=True, slots=True)
class DevicePython:
    """A command that runs Python, as a line of shell, and what it says of itself."""

    command: str
    facts: PythonFacts

    @property
    def fit(self) -> bool:
        """Whether it can run the agent."""
        return not self.facts.old and not self.facts.missing


def find_python(shell: Shell, commands: Iterable[str]) -> DevicePython | None:
    """The first of the commands that can run the agent; without one, the first that is a Python at all."""
    found: DevicePython | None = None
    for python in _pythons(shell, commands):
        if python.fit:
            return python
        found = found or python
    return found


def _pythons(shell: Shell, commands: Iterable[str]) -> Iterator[DevicePython]:
    for command in commands:
        if facts := ask_python(shell, command):
            yield DevicePython(command, facts)


def candidates(venv: str, given: str | None = None) -> tuple[str, ...]:
    """Commands worth trying on a device, best first; only the one that the user gives, if any."""
    return (given,) if given else (shlex.quote(f"{venv}/bin/python"), "python3", "python")


def ask_python(shell: Shell, command: str, options: str = "", timeout_s: float = PYTHON_SECONDS) -> PythonFacts | None:
    """What a Python tells (device_agent/doctor.py); None if the command is none. Raises DeviceError."""
    source = Path(device_agent.doctor.__file__).read_bytes()
    done = shell.run(f"{command} - {options} {' '.join(names())}", stdin=source, timeout_s=timeout_s)
    try:
        return TypeAdapter(PythonFacts).validate_json(done.out)
    except ValidationError:
        return None
