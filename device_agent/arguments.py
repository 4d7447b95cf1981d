"""Options of `sti-agent` commands, and how they become an engine's."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from device_agent.body_limit import DEFAULT_BODY_BYTES
from device_agent.engine_options import EngineOptions
from device_agent.memory import MIB
from device_agent.plan import MAX_LOADING_AGENTS

DEFAULT_PORT = 8765
AUTO = "auto"


def add_network(group: "argparse._ArgumentGroup") -> None:
    """Where to listen, and what to log."""
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    group.add_argument(
        "--port",
        type=_whole(0, 65535),
        default=DEFAULT_PORT,
        help="port to listen on; 0 takes any free one (default: %(default)s)",
    )
    group.add_argument(
        "--home", type=Path, metavar="DIR",
        help="folder that has the agent's record while it runs, and admits no second one",
    )  # fmt: skip
    group.add_argument(
        "--max-body-bytes", type=_whole(1), default=DEFAULT_BODY_BYTES, metavar="N",
        help="largest request body (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", metavar="LEVEL",
        help="least that is logged: debug, info, warning or error (default: %(default)s)",
    )  # fmt: skip


def add_resources(group: "argparse._ArgumentGroup") -> None:
    """Memory, threads and how to read."""
    options = EngineOptions()
    group.add_argument(
        "--memory-mb", type=_above_zero, metavar="MIB",
        help="memory budget of the model (default: a quarter of what is available)",
    )  # fmt: skip
    group.add_argument(
        "--threads",
        type=_whole(1),
        default=options.threads,
        metavar="N",
        help="threads of a layer (default: %(default)s)",
    )
    group.add_argument(
        "--agents", type=_agents, metavar="N|auto",
        help=f"loading agents, at most {MAX_LOADING_AGENTS}; auto: as is quickest by this device's costs "
        "(default: auto with --costs or a target, else 1)",
    )  # fmt: skip
    group.add_argument(
        "--layers-in-flight", type=_whole(1), default=options.layers_in_flight, metavar="N",
        help="streamed layers that are in memory at one time (default: %(default)s)",
    )  # fmt: skip
    reading = group.add_mutually_exclusive_group()
    reading.add_argument(
        "--direct",
        action="store_true",
        default=options.direct,
        help="read past the page cache; fails where that cannot be",
    )
    reading.add_argument(
        "--buffered", action="store_false", dest="direct", help="read through the page cache (default)"
    )
    group.add_argument(
        "--throttle-mb-s", type=_above_zero, metavar="MB",
        help="read no faster than this many megabytes per second, to emulate slower flash",
    )  # fmt: skip
    group.add_argument(
        "--slowdown", type=_at_least_one, default=options.slowdown, metavar="X",
        help="take X times as long for whatever the processor does, to emulate a slower one (default: %(default)g)",
    )  # fmt: skip


def add_speculation(group: "argparse._ArgumentGroup") -> None:
    """How far to guess ahead."""
    group.add_argument(
        "--speculate", type=_whole(0), default=EngineOptions().most_drafts, metavar="N",
        help="most tokens guessed from the text so far and checked in one pass; the text stays the same; 0: none "
        "(default: %(default)s)",
    )  # fmt: skip


def _agents(text: str) -> int | str:
    return text if text == AUTO else _whole(1, MAX_LOADING_AGENTS)(text)


def add_plan(group: "argparse._ArgumentGroup") -> None:
    """What to run for requests that do not say."""
    group.add_argument("--bits", type=_whole(1), metavar="N", help="bitwidth of every shard")
    group.add_argument("--layers", type=_whole(1), metavar="N", help="how many of the layers, from the bottom")
    group.add_argument("--slices", type=_whole(1), metavar="N", help="how many slices of every layer")
    group.add_argument("--plan", type=Path, metavar="FILE", help="a plan file, instead of the three numbers")
    group.add_argument(
        "--target-ms", type=_above_zero, metavar="MS",
        help="time in which to answer, instead of any of the others: the planner chooses",
    )  # fmt: skip


def add_costs(command: argparse.ArgumentParser, text: str) -> None:
    """Where this device's costs are."""
    command.add_argument("--costs", type=Path, metavar="FILE", help=text)


def engine_options(options: argparse.Namespace) -> EngineOptions:
    """The engine that the options describe."""
    return EngineOptions(
        budget_bytes=None if options.memory_mb is None else int(options.memory_mb * MIB),
        threads=options.threads,
        loading_agents=None if options.agents == AUTO else options.agents,
        plan_agents=options.agents == AUTO or (options.agents is None and options.costs is not None),
        layers_in_flight=options.layers_in_flight,
        direct=options.direct,
        throttle_bytes_per_s=None if options.throttle_mb_s is None else options.throttle_mb_s * 1e6,
        slowdown=options.slowdown,
        costs_path=options.costs,
    )


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < low or (high is not None and value > high):
            bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return read


def _at_least_one(text: str) -> float:
    value = _above_zero(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return value


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
