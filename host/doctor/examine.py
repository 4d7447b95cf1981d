"""Examines a device: first its shell, then its Python."""

import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import device_agent
from host.adb.line import AdbLine
from host.agent_bundle import agent_bundle
from host.device import STORES
from host.device_python import ExecutorFound, Flash, ask_python, candidates, find_python
from host.device_shell import LocalShell, Shell
from host.doctor.check import Check, Level
from host.doctor.judge import Judge, Needs
from host.doctor.shell_facts import shell_facts
from shard_store.errors import DeviceError

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all
_FLASH_SECONDS = 300.0
_STEPS = 4


@dataclass(frozen=True, slots=True)
class Patient:
    """What is examined: a device's shell, the folder that stores are in, the commands that may be its Python.

    packages: the folder or zip file of the agent's packages on the device.
    """

    name: str
    shell: Shell
    folder: str
    pythons: Iterable[str]
    packages: str
    needs: Needs
    clock: Callable[[], float] = field(default=time.time)


def local_patient(folder: Path, needs: Needs, python: str | None = None) -> Patient:
    """This machine as a device, with the Python that runs this unless another one is named."""
    packages = str(Path(device_agent.__file__).parents[1])
    return Patient("local", LocalShell(), str(folder), (python or shlex.quote(sys.executable),), packages, needs)


def adb_patient(line: AdbLine, folder: str, needs: Needs, python: str | None = None) -> Patient:
    """A device that is reached by ADB."""
    pythons = candidates(f"{folder}/venv", python)
    return Patient(str(line.spec), line, folder, pythons, f"{folder}/{agent_bundle().name}", needs)


def examine(patient: Patient, progress: Progress) -> Iterator[Check]:
    """Findings about a device. One that is lost on the way is a finding too."""
    judge = Judge(patient.name, patient.needs)
    try:
        progress("ask the shell", 0, _STEPS)
        facts = shell_facts(patient.shell, patient.folder, patient.clock)
        yield judge.connection()
        yield from judge.shell(facts)
        progress("look for Python", 1, _STEPS)
        python = find_python(patient.shell, patient.pythons)
        yield from judge.python(python)
        if python is None or python.facts.old:
            return
        progress("try the executor", 2, _STEPS)
        yield from judge.executor(_executor(patient, python.command))
        progress("measure reads", 3, _STEPS)
        yield from judge.flash(_flash(patient, python.command, facts.folder))
    except DeviceError as error:
        yield connection_problem(patient.name, error)


def _executor(patient: Patient, python: str) -> ExecutorFound:
    stores = shlex.quote(f"{patient.folder}/{STORES}")
    facts = ask_python(patient.shell, python, f"--path {shlex.quote(patient.packages)} --stores {stores}")
    return (facts and facts.executor) or ExecutorFound(error="the runtime ended the process that tried it")


def _flash(patient: Patient, python: str, folder: str) -> Flash:
    facts = ask_python(patient.shell, python, f"--flash {shlex.quote(folder)}", _FLASH_SECONDS)
    return (facts and facts.flash) or Flash(error="Python ended while it measured")


def connection_problem(name: str, error: DeviceError) -> Check:
    """A device that cannot be reached. Its errors say what is wrong, a semicolon, and what to do."""
    found, _, remedy = str(error).partition("; ")
    return Check(name, "connection", Level.PROBLEM, found, remedy or "see docs/devices.md")
