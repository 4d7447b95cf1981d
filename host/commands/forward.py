"""`sti forward`."""

from contextlib import suppress
from typing import Annotated

import typer

from host.adb.agent import ShellAgent
from host.adb.connection import Via, connect
from host.adb.files import DEFAULT_FOLDER
from host.adb.forward import forward
from host.adb.installation import Installation
from host.adb.line import AdbLine
from host.commands.options import RootOption, ViaOption, parse_device
from host.device_spec import DeviceKind, DeviceSpec
from shard_store.errors import DeviceError


def forward_command(
    *,
    device: Annotated[
        DeviceSpec, typer.Option(parser=parse_device, metavar="DEVICE", help="usb, adb:SERIAL or adb:HOST:PORT.")
    ],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the device (default: its running agent's).")
    ] = None,
    local_port: Annotated[int, typer.Option(min=0, max=65535, help="Port of this machine; 0 takes any.")] = 0,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
) -> None:
    """Make a port of a device reachable at 127.0.0.1, print its URL, and serve until interrupted."""
    if device.kind is DeviceKind.LOCAL:
        raise typer.BadParameter("the local device is this machine; its ports need no forwarding")
    device_port = port or _agent_port(device, via, DEFAULT_FOLDER if root is None else root.as_posix())
    with forward(lambda: connect(device, via), device_port, local_port) as served:
        typer.echo(served.url)
        with suppress(KeyboardInterrupt):
            served.wait()


def _agent_port(device: DeviceSpec, via: Via, folder: str) -> int:
    line = AdbLine(device, via)
    try:
        port = ShellAgent(line, Installation(line, folder), str).port()
    finally:
        line.close()
    if port is None:
        raise DeviceError(
            f"no agent runs on {device}; start one with `sti agent start --device {device}`, or give --port"
        )
    return port
