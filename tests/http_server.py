"""A real HTTP server inside the test process."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import httpx
import uvicorn
from fastapi import FastAPI

from device_agent.body_limit import DEFAULT_BODY_BYTES
from device_agent.listener import listen, url_of
from device_agent.plan_choice import PlanChoice
from device_agent.service import create_app
from device_agent.worker import MAX_WAITING, Model

PATIENCE_SECONDS = 20.0


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the app, which runs in a thread until the block ends."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, lifespan="on", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        eventually(lambda: server.started)
        with httpx.Client(base_url=url_of(listener), trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


@contextmanager
def serving_loaded(
    model: Model,
    default: PlanChoice | None = None,
    body_bytes: int = DEFAULT_BODY_BYTES,
    max_waiting: int = MAX_WAITING,
) -> Iterator[httpx.Client]:
    """`serving`, once the model is loaded."""
    with serving(create_app(lambda: model, default, body_bytes, max_waiting)) as client:
        eventually(lambda: client.get("/health").status_code == 200)
        yield client


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "this never happened"
        time.sleep(0.005)
