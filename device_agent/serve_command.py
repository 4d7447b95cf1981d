"""`sti-agent serve`: answers HTTP requests with a store's model."""

import argparse
import json
import logging
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import uvicorn

from device_agent.arguments import engine_options
from device_agent.engine import Engine
from device_agent.goal import Goal
from device_agent.interpreter import prefer_latency
from device_agent.listener import listen, url_of
from device_agent.plan import read_plan
from device_agent.plan_choice import PlanChoice
from device_agent.record import AgentRecord
from device_agent.service import create_app
from shard_store.reader import Store

GRACE_SECONDS = 5  # for requests that run when the agent is told to stop


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


def _load(options: argparse.Namespace) -> Engine:
    engine = Engine(options.store, replace(engine_options(options), most_drafts=options.speculate))
    prefer_latency()
    return engine


def serve(options: argparse.Namespace) -> None:
    """Listen until told to stop. Raises StiError if the plan or the address is of no use."""
    plan = read_plan(options.plan) if options.plan else None
    default = PlanChoice(options.bits, options.layers, options.slices, plan, Goal(target_ms=options.target_ms))
    Store.open(options.store).close()  # the wrong path is better told now than by /health
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    app = create_app(partial(_load, options), default, options.max_body_bytes)
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=GRACE_SECONDS)
    with AgentRecord(options.home) if options.home else nullcontext() as record:
        listener = listen(options.host, options.port)
        url = url_of(listener)
        server = Server(config, url, partial(record.write, url, options.store) if record else lambda: None)
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn stops in order, then raises the signal again for an earlier handler; the default one would kill.
            signal.signal(number, server.handle_exit)
        server.run([listener])
