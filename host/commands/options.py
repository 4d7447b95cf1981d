"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from host.adb.connection import Via
from host.adb.files import DEFAULT_FOLDER
from host.device_spec import DeviceSpec
from shard_store.errors import DeviceError

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of a store.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the device (default: $STI_HOME or sti in the user's data folder if local, "
        f"{DEFAULT_FOLDER} by ADB)."
    ),
]
ViaOption = Annotated[Via, typer.Option(help="Speak to devices directly, or through the adb program's server.")]


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 2,4,8") from None


def parse_device(text: str) -> DeviceSpec:
    """What follows --device."""
    try:
        return DeviceSpec.parse(text)
    except DeviceError as error:
        raise typer.BadParameter(str(error)) from None


TargetOption = Annotated[
    DeviceSpec | None,
    typer.Option(
        "--device", parser=parse_device, metavar="DEVICE",
        help="local, usb, adb:SERIAL or adb:HOST:PORT (default: local).",
    ),
]  # fmt: skip
PythonOption = Annotated[
    str | None,
    typer.Option(metavar="COMMAND", help="Command that runs Python on a device reached by ADB (default: looked for)."),
]
