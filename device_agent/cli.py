"""`sti-agent`: serves one store over HTTP, and measures the device for it."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from device_agent.arguments import add_costs, add_network, add_plan, add_resources, add_speculation
from device_agent.calibrate_command import calibrate
from device_agent.serve_command import serve
from shard_store.errors import StiError


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits 1 with one line on standard error if the agent cannot run, 2 for wrong usage."""
    options = make_parser().parse_args(arguments)
    try:
        options.command(options)
    except StiError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    formatter = partial(argparse.HelpFormatter, width=100, max_help_position=28)
    parser = argparse.ArgumentParser("sti-agent", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "serve", help="answer HTTP requests with a store's model", usage="sti-agent serve --store DIR [options]",
        formatter_class=formatter,
    )  # fmt: skip
    command.set_defaults(command=serve)
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="store to serve")
    add_network(command.add_argument_group("network"))
    add_resources(command.add_argument_group("resources"))
    add_speculation(command.add_argument_group("generated text"))
    add_costs(
        command,
        "what reading, preparing and executing cost here; measured and written if there is no such file (default: "
        "measured at the first request with a target)",
    )
    add_plan(command.add_argument_group("plan of requests that do not bring their own (default: the whole model)"))
    command = commands.add_parser(
        "calibrate", help="measure what reading, preparing and executing cost on this device",
        usage="sti-agent calibrate --store DIR [options]", formatter_class=formatter,
    )  # fmt: skip
    command.set_defaults(command=calibrate)
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="store to measure with")
    add_costs(command, "file to write (default: standard output)")
    add_resources(command.add_argument_group("resources"))
    return parser


if __name__ == "__main__":
    main()
