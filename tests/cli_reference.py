"""Writes docs/cli.md from what the commands know of their options: python -m tests.cli_reference > docs/cli.md

Not from their help texts, whose layout changes with the versions of Python and typer.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from device_agent.cli import make_parser
from host.cli import app

HEAD = """# Command line

Made by `python -m tests.cli_reference > docs/cli.md`; a test compares.

Results go to standard output, progress and errors to standard error. A command exits with 0 when it is done, with 1 and
one line `error: ...` for what can be mended, and with 2 for wrong usage.
"""
TABLE = "| | |\n|---|---|\n"


def reference() -> str:
    """The whole of docs/cli.md."""
    return "\n".join([HEAD, *_typer_sections(typer.main.get_command(app), "sti"), *_agent_sections(make_parser())])


def _typer_sections(command: Any, name: str) -> Iterator[str]:  # noqa: ANN401 - click's types move with typer's version
    commands = getattr(command, "commands", {})
    if not commands:
        params = [param for param in command.params if param.name != "help"]
        yield f"## `{name}`\n\n{command.help}\n\n{TABLE}{_rows(map(_typer_row, params))}"
    for child, sub in commands.items():
        yield from _typer_sections(sub, f"{name} {child}")


def _typer_row(param: Any) -> tuple[str, str]:  # noqa: ANN401 - click's types move with typer's version
    metavar = param.metavar or param.name.upper()
    if param.param_type_name == "argument":
        return metavar, param.help
    default = "" if param.default in {None, False} or param.required else f" Default: {_shown(param.default)}."
    usage = param.opts[0] if param.is_flag else f"{param.opts[0]} {metavar}"
    return usage, param.help + (" Required." if param.required else default)


def _shown(default: object) -> str:
    return str(getattr(default, "value", default))


def _agent_sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help for action in commands._choices_actions}
    for name, command in commands.choices.items():
        actions = [action for action in command._actions if action.dest != "help"]
        text = helps[name] or ""
        yield f"## `sti-agent {name}`\n\n{text[0].upper()}{text[1:]}.\n\n{TABLE}{_rows(map(_agent_row, actions))}"


def _agent_row(action: argparse.Action) -> tuple[str, str]:
    option = action.option_strings[0]
    metavar = action.metavar or (",".join(action.choices) if action.choices else action.dest.upper())
    usage = option if action.nargs == 0 else f"{option} {metavar}"
    text = (action.help or "") % vars(action)
    return usage, f"{text[0].upper()}{text[1:]}." + (" Required." if action.required else "")


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f"| `{usage}` | {text} |\n" for usage, text in rows)


if __name__ == "__main__":
    sys.stdout.write(reference())
