"""Guessing ahead changes no token: whatever ends a text, however tokens are chosen, and whoever shares its passes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from device_agent.causal_activations import Segment
from device_agent.completion import GenerateOptions
from device_agent.completion_desk import CompletionDesk, Order
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.generator import Generated
from device_agent.plan import Residency
from device_agent.sampling import Sampling
from shard_store.errors import BudgetError
from tests.decoders import CONFIGS, LAYERS, VOCABULARY, write_decoder
from tests.packaging import package_quietly

Stores = Callable[[str], Path]
PROMPTS = ("w5 w6 w5 w6 w5", "w9 w9", "w30 w31 w32 w30 w31", "w7")
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """The store of a random checkpoint that no token ends, each made once."""
    made: dict[str, Path] = {}

    def store(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            model = write_decoder(folder / "model", CONFIGS[name] | {"eos_token_id": None})
            made[name] = package_quietly(
                model, folder / "store", sequences=(4, 16), bitwidths=(8, 32), slices=1
            )  # fmt: skip
        return made[name]

    return store


def engine_of(store: Path, most_drafts: int, budget_bytes: int | None = None) -> Engine:
    return Engine(store, EngineOptions(budget_bytes=budget_bytes, most_drafts=most_drafts))


def never() -> bool:
    return False


def peaked(seed: int) -> Sampling:
    """Few candidates, so that some guesses are right and some are not."""
    return Sampling(0.7, top_k=3, seed=seed)


def told_of(generated: Generated) -> tuple[object, ...]:
    return generated.text, generated.ids, generated.finish_reason


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("streamed", [False, True])
def test_texts_are_the_same_with_and_without(name: str, streamed: bool, stores: Stores) -> None:
    samplings = [Sampling(), *map(peaked, SEEDS)]
    found: dict[int, list[Generated]] = {}
    for most in (0, 3, 7):
        with engine_of(stores(name), most) as engine:
            plan = engine.uniform_plan(8)
            plan = plan.with_residency([Residency.STREAMED] * LAYERS) if streamed else plan
            found[most] = [
                engine.generate(prompt, GenerateOptions(24, sampling), plan)
                for prompt in PROMPTS
                for sampling in samplings
            ]
    assert all(text.steps == 24 and text.drafted == 0 for text in found[0])
    for most in (3, 7):
        assert [told_of(text) for text in found[most]] == [told_of(text) for text in found[0]]
        assert all(text.steps + text.accepted == 24 for text in found[most])
        assert 0 < sum(text.accepted for text in found[most]) < sum(text.drafted for text in found[most])


def test_every_number_of_tokens_ends_a_text_where_it_would(stores: Stores) -> None:
    with engine_of(stores("llama"), 7) as engine:
        longest = engine.generate(PROMPTS[0], GenerateOptions(20)).ids
        for tokens in range(1, 20):
            assert engine.generate(PROMPTS[0], GenerateOptions(tokens)).ids == longest[:tokens]


def test_stop_strings_end_a_text_where_they_would(stores: Stores) -> None:
    with engine_of(stores("gpt2"), 0) as plain, engine_of(stores("gpt2"), 7) as engine:
        for prompt in PROMPTS[:2]:
            words = plain.generate(prompt, GenerateOptions(16)).text.split()
            for stop in dict.fromkeys([*words, " ".join(words[-2:])]):
                options = GenerateOptions(16, stop=(stop,))
                assert told_of(engine.generate(prompt, options)) == told_of(plain.generate(prompt, options))


def test_end_tokens_end_a_text_where_they_would(stores: Stores, tmp_path: Path) -> None:
    with engine_of(stores("qwen2"), 0) as engine:
        ids = engine.generate(PROMPTS[0], GenerateOptions(16)).ids
    for number, end in enumerate(list(dict.fromkeys(ids))[:4]):
        model = write_decoder(tmp_path / f"model{number}", CONFIGS["qwen2"] | {"eos_token_id": end})
        store = package_quietly(model, tmp_path / f"store{number}", sequences=(8,), bitwidths=(8,), slices=1)
        with engine_of(store, 0) as plain, engine_of(store, 7) as guessing:
            for prompt in (PROMPTS[0], f"w{end} {PROMPTS[0]} w{end} {PROMPTS[0]}"):
                options = GenerateOptions(16)
                assert told_of(guessing.generate(prompt, options)) == told_of(plain.generate(prompt, options))


@pytest.mark.parametrize("texts", [2, 3, 4])
def test_texts_that_share_passes_get_what_they_get_alone(texts: int, stores: Stores) -> None:
    with engine_of(stores("llama"), 0) as plain, engine_of(stores("llama"), 7) as engine:
        samplings = [Sampling(), *map(peaked, SEEDS)][:texts]
        options = [GenerateOptions(20 - 3 * number, sampling) for number, sampling in enumerate(samplings)]
        alone = [plain.generate(*asked).ids for asked in zip(PROMPTS, options, strict=False)]
        desk = CompletionDesk()
        told: list[list[str]] = [[] for _ in options]
        orders = [
            Order(engine.texts.prompts.encode(prompt), asked, engine.uniform_plan(), pieces.append)
            for prompt, asked, pieces in zip(PROMPTS, options, told, strict=False)
        ]
        for order in orders:
            desk.place(order)
        desk.drive(engine.texts.generator, orders[0], never)
        assert [order.done for order in orders] == [True] * texts
        assert [tuple(order.running.completion.ids) for order in orders if order.running] == alone
        assert [len(pieces) for pieces in told] == [asked.max_tokens for asked in options]
        assert sum(order.accepted for order in orders) > 0
        assert all(
            order.steps + order.accepted == asked.max_tokens for order, asked in zip(orders, options, strict=True)
        )


@pytest.mark.parametrize("bits", [8, 32])
def test_logits_are_the_same_to_the_last_bit(bits: int, stores: Stores) -> None:
    ids = np.random.default_rng(5).integers(2, VOCABULARY, 12)
    for name in CONFIGS:
        with engine_of(stores(name), 7) as engine:
            plan, model = engine.uniform_plan(bits), engine.texts.generator.model
            cache = model.open_cache(plan, 20)
            model.advance(plan, [Segment(ids[:4], cache)], never)
            single = [model.advance(plan, [Segment(ids[n : n + 1], cache)], never)[0] for n in range(4, 12)]
            cache.rewind(4)
            drafting = model.passes.drafting(plan, 1, 7)
            assert drafting is not None
            together, _ = model.advance(plan, [Segment(ids[4:], cache, 7)], never, drafting)
            model.close_cache(cache)
        assert together.tobytes() == np.concatenate(single).tobytes()


def test_no_budget_is_overrun_and_none_refuses_what_it_held(stores: Stores) -> None:
    def run(most: int, budget_bytes: int | None) -> tuple[tuple[int, ...], int, int]:
        with engine_of(stores("gpt2"), most, budget_bytes) as engine:
            generated = [engine.generate(prompt, GenerateOptions(20)) for prompt in PROMPTS]
            ids = tuple(token for text in generated for token in text.ids)
            return ids, engine.ledger.peak_bytes, sum(text.drafted for text in generated)

    expected, roomy, _ = run(0, None)
    ran, guessed = 0, 0
    for budget_bytes in range(roomy // 3, 2 * roomy, roomy // 16):
        try:
            run(0, budget_bytes)
        except BudgetError:
            continue
        ids, peak, drafted = run(7, budget_bytes)
        assert (ids, peak <= budget_bytes) == (expected, True)
        ran, guessed = ran + 1, guessed + (drafted > 0)
    assert ran > 8
    assert guessed > 4


def test_gpt2_writes_what_the_reference_implementation_writes(shared_models: Path, tmp_path: Path) -> None:
    golden = json.loads((shared_models / "gpt2-tiny" / "golden.json").read_text())["inputs"]
    store = package_quietly(shared_models / "gpt2-tiny", tmp_path / "store", sequences=(16,), bitwidths=(8,), slices=1)
    with engine_of(store, 8) as engine:
        found: Sequence[Generated] = [engine.generate(entry["prompt"], GenerateOptions(40)) for entry in golden]
    assert [list(text.ids) for text in found] == [entry["output_ids"] for entry in golden]
    assert sum(text.steps for text in found) < 100
