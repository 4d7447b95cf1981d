"""`sti doctor`."""

from collections.abc import Iterator
from itertools import groupby
from typing import Annotated

import typer
from rich.table import Table

from host import display
from host.adb.connection import Via
from host.adb.line import AdbLine
from host.agent_device import LOCAL, DeviceChoice
from host.commands.options import JsonOption, PythonOption, RootOption, TargetOption, ViaOption
from host.doctor.check import Check, Diagnosis, Level, diagnosis
from host.doctor.examine import Progress, adb_patient, examine, local_patient
from host.doctor.host_checks import host_checks
from host.doctor.judge import Needs
from host.local_files import default_root

MB = 1e6


def doctor_command(
    *,
    device: TargetOption = None,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
    python: PythonOption = None,
    memory_mb: Annotated[float, typer.Option(min=0, help="Memory, in MB, that the device should have free.")] = 256,
    space_mb: Annotated[float, typer.Option(min=0, help="Space, in MB, that the device should have free.")] = 500,
    read_mb_s: Annotated[float, typer.Option(min=0, help="Megabytes per second that it should read.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine and a device, and say what to do about what is wrong. Exits 1 if there is a problem."""
    needs = Needs(int(memory_mb * MB), int(space_mb * MB), read_mb_s)
    choice = DeviceChoice(device or LOCAL, via, root, python)
    with display.progress_bar() as progress:
        found = diagnosis((*host_checks(default_root()), *_device_checks(choice, needs, progress)))
    (display.print_json if as_json else print_diagnosis)(found)
    if found.level is Level.PROBLEM:
        raise typer.Exit(1)


def _device_checks(choice: DeviceChoice, needs: Needs, progress: Progress) -> Iterator[Check]:
    if choice.is_local:
        yield from examine(local_patient(choice.root or default_root(), needs, choice.python), progress)
        return
    line = AdbLine(choice.spec, choice.via)
    try:
        yield from examine(adb_patient(line, choice.folder, needs, choice.python), progress)
    finally:
        line.close()


def print_diagnosis(found: Diagnosis) -> None:
    """One line per finding, the remedy below what is not fine."""
    for where, checks in groupby(found.checks, lambda check: check.where):
        table = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            table.add_row("", check.name, check.level.value, check.found)
            if check.remedy:
                table.add_row("", "", "", f"-> {check.remedy}")
        display.out().print(where)
        display.out().print(table)
