"""Arguments and options that several commands share."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from host.device import Device
from host.local_device import LocalDevice


class DeviceKind(str, Enum):
    """Where an agent runs."""

    LOCAL = "local"


StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DeviceOption = Annotated[DeviceKind, typer.Option(help="Kind of device.")]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the local device (default: $STI_HOME, or sti in the user's data folder).")
]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 2,4,8") from None


def device_of(kind: DeviceKind, root: Path | None) -> Device:
    """The device that the options name."""
    assert kind is DeviceKind.LOCAL
    return LocalDevice(root)
