"""`sti-agent`: serves one store over HTTP."""

import argparse
import json
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import uvicorn

from device_agent.body_limit import DEFAULT_BODY_BYTES
from device_agent.engine import Engine, EngineOptions
from device_agent.listener import listen, url_of
from device_agent.plan import MAX_LOADING_AGENTS, read_plan
from device_agent.plan_choice import PlanChoice
from device_agent.record import AgentRecord
from device_agent.service import create_app
from shard_store.errors import StiError
from shard_store.reader import Store

DEFAULT_PORT = 8765
GRACE_SECONDS = 5  # for requests that run when the agent is told to stop
MIB = 1 << 20


class Server(uvicorn.Server):
    """Says on standard output where it listens, so that whoever started it can find the port."""

    def __init__(self, config: uvicorn.Config, url: str, record: Callable[[], None]) -> None:
        super().__init__(config)
        self._url = url
        self._record = record

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce once requests are accepted."""
        await super().startup(sockets)
        self._record()
        sys.stdout.write(json.dumps({"event": "listening", "url": self._url}) + "\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exits 1 with one line on standard error if the agent cannot run, 2 for wrong usage."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        serve(options)
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
    command.add_argument("--store", type=Path, required=True, metavar="DIR", help="store to serve")
    _add_network(command.add_argument_group("network"))
    _add_resources(command.add_argument_group("resources"))
    _add_plan(command.add_argument_group("plan of requests that do not bring their own (default: the whole model)"))
    return parser


def _add_network(group: "argparse._ArgumentGroup") -> None:
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


def _add_resources(group: "argparse._ArgumentGroup") -> None:
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
        "--agents", type=_whole(1, MAX_LOADING_AGENTS), default=options.loading_agents, metavar="N",
        help=f"loading agents, at most {MAX_LOADING_AGENTS} (default: %(default)s)",
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


def _add_plan(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--bits", type=_whole(1), metavar="N", help="bitwidth of every shard")
    group.add_argument("--layers", type=_whole(1), metavar="N", help="how many of the layers, from the bottom")
    group.add_argument("--slices", type=_whole(1), metavar="N", help="how many slices of every layer")
    group.add_argument("--plan", type=Path, metavar="FILE", help="a plan file, instead of the three numbers")


def serve(options: argparse.Namespace) -> None:
    """Listen until told to stop. Raises StiError if the plan or the address is of no use."""
    plan = read_plan(options.plan) if options.plan else None
    default = PlanChoice(options.bits, options.layers, options.slices, plan)
    Store.open(options.store).close()  # the wrong path is better told now than by /health
    engine_options = EngineOptions(
        budget_bytes=None if options.memory_mb is None else int(options.memory_mb * MIB),
        threads=options.threads,
        loading_agents=options.agents,
        layers_in_flight=options.layers_in_flight,
        direct=options.direct,
        throttle_bytes_per_s=None if options.throttle_mb_s is None else options.throttle_mb_s * 1e6,
    )
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    app = create_app(lambda: Engine(options.store, engine_options), default, options.max_body_bytes)
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=GRACE_SECONDS)
    with AgentRecord(options.home) if options.home else nullcontext() as record:
        listener = listen(options.host, options.port)
        url = url_of(listener)
        server = Server(config, url, partial(record.write, url, options.store) if record else lambda: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn stops in order, then raises the signal again for an earlier handler; the default one would kill.
            signal.signal(number, server.handle_exit)
        server.run([listener])


def _whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def read(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if value < low or (high is not None and value > high):
            bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return read


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


if __name__ == "__main__":
    main()
