"""`sti push`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from host import display
from host.adb.connection import Via
from host.commands.options import JsonOption, RootOption, ViaOption, parse_device
from host.device import DeviceFiles
from host.device_spec import DeviceKind, DeviceSpec
from host.fleet import Outcome, Outcomes, all_devices, on_each
from host.push import PushReport, push
from host.transfer_display import transfer_bars
from host.versions import Freed, StoreList, collect_garbage, remove_store, stored_versions


def push_command(
    store: Annotated[Path | None, typer.Argument(metavar="[STORE]", help="Folder of a store.")] = None,
    *,
    device: Annotated[
        list[DeviceSpec] | None,
        typer.Option(
            parser=parse_device,
            metavar="DEVICE",
            help="local, usb, adb:SERIAL or adb:HOST:PORT; may be repeated (default: local).",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every device on the USB, or that adb knows.")] = False,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
    name: Annotated[str | None, typer.Option(help="Name on the device (default: the model's).")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the stores of the device instead.")] = False,
    gc: Annotated[bool, typer.Option("--gc", help="Remove unfinished and replaced versions instead.")] = False,
    remove: Annotated[str | None, typer.Option(metavar="NAME", help="Remove a store from the device instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a store to devices, verify it there, then replace an older version. A push that broke off goes on."""
    if sum((store is not None, listing, gc, remove is not None)) != 1:
        raise typer.BadParameter("give one of STORE, --list, --gc and --remove")
    if every and device:
        raise typer.BadParameter("give --device or --all")
    specs = all_devices(via) if every else tuple(dict.fromkeys(device or [DeviceSpec(DeviceKind.LOCAL)]))
    with transfer_bars() as bar_of:

        def act(spec: DeviceSpec, target: DeviceFiles) -> PushReport | StoreList | Freed:
            if store is not None:
                return push(store, target, bar_of(str(spec)), name)
            if remove is not None:
                return remove_store(target, remove)
            return collect_garbage(target) if gc else StoreList(stored_versions(target))

        outcomes = on_each(specs, via, root, act)
    _show(outcomes, as_json)
    if any(outcome.error for outcome in outcomes.devices):
        raise typer.Exit(1)


def _show(outcomes: Outcomes, as_json: bool) -> None:
    """The result of one device alone, or those of several under their names."""
    alone = outcomes.devices[0].result if len(outcomes.devices) == 1 else None
    if as_json:
        display.print_json(alone or outcomes)
        return
    for outcome in outcomes.devices:
        if outcome.error is not None:
            typer.echo(f"error: {_reason(outcome)}", err=True)
            continue
        if not alone:
            typer.echo(f"{outcome.device}:")
        if isinstance(outcome.result, StoreList):
            _print_list(outcome.result)
        elif outcome.result:
            display.print_fields(outcome.result)


def _reason(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error if outcome.device in outcome.error else f"{outcome.device}: {outcome.error}"


def _print_list(found: StoreList) -> None:
    table = Table("store", "version", "state", "files", "size")
    for stored in found.stores:
        table.add_row(stored.name, stored.version, stored.state, str(stored.files), f"{stored.nbytes / 1e6:.2f} MB")
    display.out().print(table)
