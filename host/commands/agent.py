"""`sti agent start|stop|status|logs`."""

import sys
import time
from contextlib import suppress
from typing import Annotated

import typer

from host import display
from host.agent_log import follow, last_lines
from host.agent_session import only_store
from host.client import AgentClient
from host.commands.options import DeviceKind, DeviceOption, JsonOption, RootOption, device_of

_FOLLOW_SECONDS = 0.5


def start_command(
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of `sti-agent serve`, after --.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="NAME", help="Store on the device (default: its only one).")
    ] = None,
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
) -> None:
    """Start the agent on a store and print its URL once the model is loaded."""
    target = device_of(device, root)
    typer.echo(target.start_agent(store or only_store(target), options or ()))


def stop_command(device: DeviceOption = DeviceKind.LOCAL, root: RootOption = None) -> None:
    """Stop the agent."""
    typer.echo("stopped" if device_of(device, root).stop_agent() else "no agent was running")


def status_command(
    device: DeviceOption = DeviceKind.LOCAL, root: RootOption = None, as_json: JsonOption = False
) -> None:
    """Show the running agent and its memory."""
    agent = device_of(device, root).agent()
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
    device: DeviceOption = DeviceKind.LOCAL,
    root: RootOption = None,
    lines: Annotated[int, typer.Option(min=0, help="How many of the last lines.")] = 100,
    keep_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")] = False,
) -> None:
    """Show what the agent last started has logged."""
    target = device_of(device, root)
    log = target.agent_log()
    _write(last_lines(log, lines))
    if keep_on:
        with suppress(KeyboardInterrupt):
            for part in follow(target, len(log), lambda: time.sleep(_FOLLOW_SECONDS)):
                _write(part)


def _write(part: bytes) -> None:
    sys.stdout.write(part.decode("utf-8", "replace"))
    sys.stdout.flush()
