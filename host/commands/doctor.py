"""`sti doctor`."""

from typing import Annotated

import typer
from rich.table import Table

from host import display
from host.commands.options import DeviceKind, DeviceOption, JsonOption, RootOption
from host.doctor.check import Diagnosis, Level, diagnosis
from host.doctor.examine import examine, local_patient
from host.doctor.host_checks import host_checks
from host.doctor.judge import Needs
from host.local_files import default_root

MB = 1e6
PythonOption = Annotated[
    str | None, typer.Option(metavar="COMMAND", help="Command that runs Python on the device (default: looked for).")
]


def doctor_command(
    *,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
    python: PythonOption = None,
    memory_mb: Annotated[float, typer.Option(min=0, help="Memory, in MB, that the device should have free.")] = 256,
    space_mb: Annotated[float, typer.Option(min=0, help="Space, in MB, that the device should have free.")] = 500,
    read_mb_s: Annotated[float, typer.Option(min=0, help="Megabytes per second that it should read.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine and a device, and say what to do about what is wrong. Exits 1 if there is a problem."""
    assert device is DeviceKind.LOCAL
    needs = Needs(int(memory_mb * MB), int(space_mb * MB), read_mb_s)
    with display.progress_bar() as progress:
        home = root or default_root()
        found = diagnosis((*host_checks(home), *examine(local_patient(home, needs, python), progress)))
    (display.print_json if as_json else print_diagnosis)(found)
    if found.level is Level.PROBLEM:
        raise typer.Exit(1)


def print_diagnosis(found: Diagnosis) -> None:
    """One line per finding, the remedy below what is not fine."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in found.checks:
        table.add_row(check.where, check.name, check.level.value, check.found)
        if check.remedy:
            table.add_row("", "", "", f"-> {check.remedy}")
    display.out().print(table)
