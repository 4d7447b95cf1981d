"""`sti agent start|stop|status|logs|bundle`."""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from device_agent.requirements import REQUIREMENTS
from host import display
from host.adb.connection import Via
from host.adb.device import AdbDevice
from host.agent_bundle import agent_bundle
from host.agent_device import LOCAL, DeviceChoice, agent_device
from host.agent_log import follow, last_lines
from host.agent_session import only_store
from host.client import AgentClient
from host.commands.options import JsonOption, PythonOption, RootOption, TargetOption, ViaOption

_FOLLOW_SECONDS = 0.5
InstallOption = Annotated[
    bool,
    typer.Option("--install", help="Install on a device reached by ADB what its Python lacks; it needs a network."),
]


def start_command(
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of `sti-agent serve`, after --.")
    ] = None,
    *,
    store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store on the device (default: its only one).")
    ] = None,
    device: TargetOption = None,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
    python: PythonOption = None,
    install: InstallOption = False,
) -> None:
    """Start the agent on a store; print its URL, or its port on a device reached by ADB, once the model is loaded."""
    choice = DeviceChoice(device or LOCAL, via, root, python, install)
    with agent_device(choice) as target, display.progress_bar() as progress:
        progress("start the agent", 0, 0)
        url = target.start_agent(store or only_store(target), options or ())
        port = target.agent_port() if isinstance(target, AdbDevice) else None
    if port is None:
        typer.echo(url)
    else:
        typer.echo(port)
        typer.echo(f"to reach it: sti infer --device {choice.spec}, or sti forward --device {choice.spec}", err=True)


def bundle_command(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Zip file to write, such as sti-agent.zip.")],
) -> None:
    """Write the agent as one file, and print what its Python needs: `python FILE serve --store DIR` runs it."""
    out.write_bytes(agent_bundle().content)
    typer.echo("\n".join(REQUIREMENTS))


def stop_command(device: TargetOption = None, via: ViaOption = Via.DIRECT, root: RootOption = None) -> None:
    """Stop the agent."""
    with agent_device(DeviceChoice(device or LOCAL, via, root)) as target:
        typer.echo("stopped" if target.stop_agent() else "no agent was running")


def status_command(
    device: TargetOption = None, via: ViaOption = Via.DIRECT, root: RootOption = None, as_json: JsonOption = False
) -> None:
    """Show the running agent and its memory."""
    with agent_device(DeviceChoice(device or LOCAL, via, root)) as target:
        agent = target.agent()
        if agent is None:
            typer.echo("no agent is running")
            raise typer.Exit(1)
        with AgentClient(agent.url) as client:
            health = client.health()
    if not as_json:
        display.print_fields(agent)
    (display.print_json if as_json else display.print_fields)(health)


def logs_command(
    *,
    device: TargetOption = None,
    via: ViaOption = Via.DIRECT,
    root: RootOption = None,
    lines: Annotated[int, typer.Option(min=0, help="How many of the last lines.")] = 100,
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")] = False,
) -> None:
    """Show what the agent last started has logged."""
    with agent_device(DeviceChoice(device or LOCAL, via, root)) as target:
        log = target.agent_log()
        _write(last_lines(log, lines))
        if keep_on:
            with suppress(KeyboardInterrupt):
                for part in follow(target, len(log), lambda: time.sleep(_FOLLOW_SECONDS)):
                    _write(part)


def _write(part: bytes) -> None:
    sys.stdout.write(part.decode("utf-8", "replace"))
    sys.stdout.flush()
