"""`sti push`."""

from typing import Annotated

import typer

from host import display
from host.commands.options import DeviceKind, DeviceOption, JsonOption, RootOption, StoreArgument, device_of
from host.push import push


def push_command(
    store: StoreArgument,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
    name: Annotated[str | None, typer.Option(help="Name on the device (default: the model's).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a store to a device, verify it there, then replace an older version."""
    with display.progress_bar() as progress:
        report = push(store, device_of(device, root), progress, name)
    (display.print_json if as_json else display.print_fields)(report)
