"""`sti`: packages models, brings them to devices and asks them."""

import sys
from typing import NoReturn

import typer

from host.commands.adapt import adapt_command
from host.commands.agent import bundle_command, logs_command, start_command, status_command, stop_command
from host.commands.bench import bench_command
from host.commands.doctor import doctor_command
from host.commands.forward import forward_command
from host.commands.infer import infer_command
from host.commands.inspect import inspect_command
from host.commands.package import package_command
from host.commands.plan import plan_command
from host.commands.profile import profile_command
from host.commands.push import push_command
from shard_store.errors import StiError

app = typer.Typer(
    name="sti", help=__doc__, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip
app.command("adapt")(adapt_command)
app.command("package")(package_command)
app.command("inspect")(inspect_command)
app.command("profile")(profile_command)
app.command("push")(push_command)
app.command("forward")(forward_command)
app.command("infer")(infer_command)
app.command("plan")(plan_command)
app.command("bench")(bench_command)
app.command("doctor")(doctor_command)

agent_app = typer.Typer(help="The agent of a device.", no_args_is_help=True, rich_markup_mode=None)
agent_app.command("start")(start_command)
agent_app.command("stop")(stop_command)
agent_app.command("status")(status_command)
agent_app.command("logs")(logs_command)
agent_app.command("bundle")(bundle_command)
app.add_typer(agent_app, name="agent")


def main() -> None:
    """Entry point. Exits 1 with one line on standard error for what the user can mend, 2 for wrong usage."""
    try:
        app()
    except StiError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"{error.filename or 'this machine'}: {error.strerror or error}; free space or choose another folder")


def _fail(message: str) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
