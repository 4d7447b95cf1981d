"""Budgets that shrink and grow a thousand times under load: nothing fails, nothing exceeds them, nothing leaks."""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event

import httpx
import numpy as np
import pytest

from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.memory import MIB
from device_agent.process_memory import process_memory
from shard_store.errors import BudgetError
from tests.http_server import serving_loaded
from tests.profiles import profiled_copy

CHANGES = 1000
WARM_UP = 100  # changes after which all that is ever allocated once has been
GROWTH_BYTES = 16 * MIB  # of the whole process over 900 changes: allocators keep some of what was freed
TEXTS = ("a text", "another text with a few more words", "and a third one that is the longest of all of them")


def budgets(engine: Engine) -> list[int]:
    """From the least that can be to more than the whole model."""
    whole = engine.uniform_plan()
    longest = max(engine.manifest.description.sequences)
    top = engine.footprint(whole, longest, 1).peak_bytes(whole) + 8 * MIB
    low = smallest_budget(engine, top)
    generator = np.random.default_rng(3)
    return [int(generator.integers(low, top)) for _ in range(CHANGES)]


def smallest_budget(engine: Engine, top: int) -> int:
    """By bisection."""
    low, high = 0, top
    while high - low > 1024:
        middle = (low + high) // 2
        try:
            engine.set_budget(middle)
        except BudgetError:
            low = middle
        else:
            high = middle
    engine.set_budget(top)
    return high


@pytest.mark.parametrize("target_ms", [None, 4.0])
def test_a_thousand_budgets_under_load(store: Path, target_ms: float | None) -> None:
    engine = Engine(store, EngineOptions(budget_bytes=256 * MIB))
    sizes = budgets(engine)
    done = Event()

    def ask(client: httpx.Client, number: int) -> int:
        body: dict[str, object] = {"input": TEXTS[number % len(TEXTS)]}
        if target_ms is not None:
            body["target_ms"] = target_ms * (1 + number % 5)
        answer = client.post("/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        summary = answer.json()["sti"]
        assert summary["model_peak_bytes"] <= summary["budget_bytes"]
        return 1

    def load(client: httpx.Client) -> int:
        return sum(ask(client, number) for number in _until(done))

    with serving_loaded(engine) as client, ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, client) for _ in range(2)]
        resident = []
        try:
            for number, budget_bytes in enumerate(sizes):
                answer = client.put("/v1/budget", json={"memory_mb": budget_bytes / MIB})
                assert answer.status_code == 200, answer.text
                if number in {WARM_UP, CHANGES - 1}:
                    gc.collect()
                    resident.append(process_memory().anonymous_bytes)
        finally:
            done.set()
        answers = sum(result.result() for result in loads)
    assert answers > CHANGES / 10, "the load was one"
    assert resident[-1] - resident[0] <= GROWTH_BYTES
    assert engine.ledger.held_bytes <= engine._fixed_bytes, "all else was freed"


def _until(done: Event) -> Iterator[int]:
    for number in count():
        if done.is_set():
            return
        yield number


@pytest.fixture(scope="module")
def store(golden_store: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profiled_copy(golden_store("bert-embedding"), tmp_path_factory.mktemp("budgets") / "store")
