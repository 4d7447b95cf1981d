"""Requests that are taken forward together: joined, left, failed, and each with what it would get alone."""

from collections.abc import Iterator

import pytest

from device_agent.completion import GenerateOptions
from device_agent.completion_desk import CompletionDesk, Order
from device_agent.engine import Engine
from device_agent.pipeline import Cancelled
from device_agent.sampling import Sampling
from shard_store.errors import RequestError
from tests.decoders import LLAMA, write_decoder
from tests.packaging import package_quietly

PROMPTS = ("w5 w6", "w9", "w30 w31 w32 w33 w34")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("desk")
    model = write_decoder(folder / "model", LLAMA | {"eos_token_id": None})
    with Engine(package_quietly(model, folder / "store", sequences=(8,), bitwidths=(32,), slices=1)) as engine:
        yield engine


def order(engine: Engine, prompt: str, told: list[str], tokens: int = 6) -> Order:
    options = GenerateOptions(tokens, Sampling(1.0, seed=4))
    return Order(engine.texts.prompts.encode(prompt), options, engine.uniform_plan(), told.append)


def never() -> bool:
    return False


def test_orders_share_passes_and_get_what_they_get_alone(engine: Engine) -> None:
    desk = CompletionDesk()
    told: list[list[str]] = [[] for _ in PROMPTS]
    orders = [order(engine, prompt, pieces) for prompt, pieces in zip(PROMPTS, told, strict=True)]
    for one in orders:
        desk.place(one)
    desk.drive(engine.texts.generator, orders[0], never)
    assert [one.done for one in orders] == [True] * 3
    assert [one.shared_steps for one in orders] == [6] * 3
    for prompt, one, pieces in zip(PROMPTS, orders, told, strict=True):
        alone = engine.generate(prompt, GenerateOptions(6, Sampling(1.0, seed=4)))
        assert one.running is not None
        assert tuple(one.running.completion.ids) == alone.ids
        assert "".join(pieces) == alone.text
    assert desk.idle


def test_whoever_has_the_turn_drives_the_others_on(engine: Engine) -> None:
    desk = CompletionDesk()
    short, long = order(engine, "w5", [], 2), order(engine, "w6", [], 5)
    desk.place(long)
    desk.place(short)
    desk.drive(engine.texts.generator, short, never)
    assert (short.done, long.done, long.steps, desk.idle) == (True, False, 2, False)
    desk.drive(engine.texts.generator, long, never)
    assert (long.done, long.steps, long.shared_steps) == (True, 5, 2)


def test_one_that_left_is_dropped_and_its_memory_is_free(engine: Engine) -> None:
    engine.generate("w7")
    desk, before = CompletionDesk(), engine.ledger.held_bytes
    stays, leaves, gone_before = (order(engine, "w7", []) for _ in range(3))
    leaves.tell = lambda _: leaves.left.set()
    gone_before.left.set()
    for one in (leaves, stays, gone_before):
        desk.place(one)
    desk.drive(engine.texts.generator, stays, never)
    assert isinstance(leaves.failure, Cancelled)
    assert isinstance(gone_before.failure, Cancelled)
    assert (leaves.steps, gone_before.steps, stays.steps) == (1, 0, 6)
    with pytest.raises(Cancelled):
        lonely = order(engine, "w7", [])
        desk.place(lonely)
        desk.drive(engine.texts.generator, lonely, lambda: True)
    assert desk.idle
    assert engine.ledger.held_bytes == before


def test_one_that_cannot_be_admitted_does_not_disturb_the_others(engine: Engine) -> None:
    desk = CompletionDesk()
    fine, too_long = order(engine, "w7", []), order(engine, "w7", [], 1000)
    desk.place(too_long)
    desk.place(fine)
    desk.drive(engine.texts.generator, fine, never)
    assert fine.failure is None
    with pytest.raises(RequestError, match="1001 tokens of prompt and answer, the model has room for 64"):
        desk.drive(engine.texts.generator, too_long, never)


def test_a_step_that_fails_fails_all_that_take_part(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = CompletionDesk()
    first, second = order(engine, "w7", []), order(engine, "w8", [])

    def broken(*_: object) -> None:
        raise RequestError("broken")

    monkeypatch.setattr(engine.texts.generator.model, "advance", broken)
    for one in (first, second):
        desk.place(one)
    for one in (first, second):
        with pytest.raises(RequestError, match="broken"):
            desk.drive(engine.texts.generator, one, never)
    assert desk.idle
