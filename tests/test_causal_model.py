"""Decoders against an independent forward pass: prefill, steps, shared passes, caches and budgets."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from device_agent.causal_activations import Segment
from device_agent.completion import FinishReason, GenerateOptions
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.sampling import Sampling
from shard_store.errors import BudgetError, PlanError, RequestError
from tests.decoders import CONFIGS, LAYERS, VOCABULARY, reference_logits, write_decoder
from tests.packaging import package_quietly

Models = Callable[[str], tuple[Path, Path]]
SEQUENCES = (4, 16)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A random checkpoint and its store, each made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def model(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write_decoder(folder / "model", CONFIGS[name])
            store = package_quietly(
                folder / "model", folder / "store", sequences=SEQUENCES, bitwidths=(4, 8, 32),
                slices=1 if name == "qwen2" else 2,
            )  # fmt: skip
            made[name] = folder / "model", store
        return made[name]

    return model


def text_of(length: int, seed: int = 3) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).integers(2, VOCABULARY, length)


def never() -> bool:
    return False


def logits_of(engine: Engine, plan: Plan, pieces: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
    """Behind each piece of one text (pieces, vocabulary)."""
    model = engine.texts.generator.model
    cache = model.open_cache(plan, sum(map(len, pieces)))
    try:
        return np.concatenate([model.advance(plan, [Segment(piece, cache)], never)[0] for piece in pieces])
    finally:
        model.close_cache(cache)


@pytest.mark.parametrize("name", CONFIGS)
def test_exact_logits_equal_the_reference(name: str, models: Models) -> None:
    folder, store = models(name)
    ids = text_of(30)  # prefill of two buckets, then single steps
    with Engine(store) as engine:
        found = logits_of(engine, engine.uniform_plan(32), [ids[:27], ids[27:28], ids[28:29], ids[29:]])
        low = logits_of(engine, engine.uniform_plan(8), [ids])
    expected = reference_logits(folder, ids.tolist())
    np.testing.assert_allclose(found, expected[[26, 27, 28, 29]], atol=1e-4)
    assert np.abs(low - expected[29]).max() < 0.2 * np.abs(expected[29]).max()


def test_texts_that_share_passes_get_what_they_get_alone(models: Models) -> None:
    folder, store = models("llama")
    texts = [text_of(length, seed) for seed, length in enumerate((3, 21, 1, 12))]
    with Engine(store) as engine:
        plan, model = engine.uniform_plan(32), engine.texts.generator.model
        caches = [model.open_cache(plan, len(ids) + 1) for ids in texts]
        together, _ = model.advance(plan, [Segment(*pair) for pair in zip(texts, caches, strict=True)], never)
        step = [Segment(np.array([5]), cache) for cache in caches]
        following, _ = model.advance(plan, step, never)
        for cache in caches:
            model.close_cache(cache)
    for ids, first, second in zip(texts, together, following, strict=True):
        expected = reference_logits(folder, [*ids.tolist(), 5])
        np.testing.assert_allclose(first, expected[-2], atol=1e-4)
        np.testing.assert_allclose(second, expected[-1], atol=1e-4)


def test_a_cache_that_was_rewound_goes_on_from_there(models: Models) -> None:
    folder, store = models("gpt2")
    ids = text_of(9)
    with Engine(store) as engine:
        plan, model = engine.uniform_plan(32), engine.texts.generator.model
        cache = model.open_cache(plan, 20)
        model.advance(plan, [Segment(np.concatenate((ids[:6], [7, 8, 9])), cache)], never)
        cache.rewind(6)
        found, _ = model.advance(plan, [Segment(ids[6:], cache)], never)
    np.testing.assert_allclose(found[0], reference_logits(folder, ids.tolist())[-1], atol=1e-4)


def test_streamed_and_resident_layers_give_the_same_tokens(models: Models) -> None:
    _, store = models("qwen2")
    prompt, options = "w5 w9 w33", GenerateOptions(12)
    with Engine(store) as engine:
        plan = engine.uniform_plan(8)
        resident = engine.generate(prompt, options, plan)
        streamed = engine.generate(prompt, options, plan.with_residency([Residency.STREAMED] * LAYERS))
    assert resident.ids == streamed.ids
    assert (resident.finish_reason, resident.prompt_tokens) in ((FinishReason.LENGTH, 3), (FinishReason.STOP, 3))


def test_narrow_shallow_and_mixed_runs(models: Models) -> None:
    _, store = models("llama")
    with Engine(store) as engine:
        plan = Plan((LayerPlan(0, (4,)), LayerPlan(2, (8,))))
        first, second = (engine.generate("w2 w3", GenerateOptions(5), plan) for _ in range(2))
    assert first.ids == second.ids


def test_greedy_tokens_are_the_likeliest(models: Models) -> None:
    folder, store = models("llama3")
    with Engine(store) as engine:
        told: list[str] = []
        result = engine.generate("w4 w5", GenerateOptions(6), engine.uniform_plan(32), tell=told.append)
    ids = [4, 5]
    for token in result.ids:
        assert token == int(reference_logits(folder, ids)[-1].argmax())
        ids.append(token)
    assert "".join(told) == result.text


def test_the_same_seed_gives_the_same_text(models: Models) -> None:
    _, store = models("llama")
    with Engine(store) as engine:
        ids = {
            seed: [engine.generate("w7", GenerateOptions(8, Sampling(1.5, seed=seed))).ids for _ in range(2)]
            for seed in (1, 2)
        }
    assert ids[1][0] == ids[1][1] != ids[2][0]


def test_a_cache_beyond_the_budget_is_refused_with_the_numbers(models: Models) -> None:
    _, store = models("llama")
    with Engine(store) as roomy:
        roomy.generate("w2", GenerateOptions(2))
        needed = roomy.ledger.peak_bytes
    with Engine(store, EngineOptions(budget_bytes=needed // 4)) as engine:
        with pytest.raises(
            BudgetError, match=r"the KV cache of 11 tokens takes 0\.0 MiB, .* MiB in all; ask for fewer"
        ):
            engine.generate("w2", GenerateOptions(10))
        assert engine.ledger.held_bytes <= needed


def test_no_budget_is_overrun_by_texts_that_come_and_go(models: Models) -> None:
    _, store = models("gpt2")

    def peak(budget_bytes: int | None) -> int:
        with Engine(store, EngineOptions(budget_bytes=budget_bytes, loading_agents=2)) as engine:
            plan, model = engine.uniform_plan(8), engine.texts.generator.model
            for length in (5, 12):
                engine.generate("w3 " * length, GenerateOptions(3), plan)
                caches = [model.open_cache(plan, 20) for _ in range(3)]
                model.advance(plan, [Segment(text_of(length), cache) for cache in caches], never)
                for cache in caches:
                    model.close_cache(cache)
            return engine.ledger.peak_bytes

    roomy, ran = peak(None), 0
    for budget_bytes in range(roomy // 3, roomy + roomy // 10, roomy // 12):
        try:
            assert peak(budget_bytes) <= budget_bytes
            ran += 1
        except BudgetError:
            assert not ran, "what fits a budget fits a larger one"
    assert ran > 2


def test_what_is_held_returns_to_what_was(models: Models) -> None:
    _, store = models("gpt2")
    with Engine(store) as engine:
        engine.generate("w2 w3", GenerateOptions(3))
        before = engine.ledger.held_bytes
        engine.generate("w2 w3", GenerateOptions(3))
        assert engine.ledger.held_bytes == before <= engine.ledger.peak_bytes
        with pytest.raises(RequestError, match="43 tokens of prompt and answer, the model has room for 40"):
            engine.generate("w2 w3 w4", GenerateOptions(40))
        assert engine.ledger.held_bytes == before


def test_a_generating_model_refuses_to_classify_and_others_to_generate(models: Models, golden_store: object) -> None:
    _, store = models("gpt2")
    with Engine(store) as engine, pytest.raises(RequestError, match="generates text; ask it for a completion"):
        engine.answer(["w2"])
    assert callable(golden_store)
    with Engine(golden_store("bert-embedding")) as encoder, pytest.raises(RequestError, match="generates no text"):
        encoder.generate("good")


def test_a_head_that_was_not_packaged_is_a_plan_error(models: Models, tmp_path: Path) -> None:
    folder, _ = models("gpt2")
    store = package_quietly(folder, tmp_path / "store", sequences=(4,), bitwidths=(8,), slices=1)
    with Engine(store) as engine:
        assert engine.manifest.description.sequences == (1, 4)
        assert engine.manifest.vocabulary_head is not None
        assert sorted(engine.manifest.vocabulary_head.blocks) == [8]
        with pytest.raises(PlanError, match="no 32-bit shards"):
            engine.generate("w2", plan=Plan(tuple(LayerPlan(index, (32,)) for index in range(LAYERS))))


def test_gpt2_writes_what_the_reference_implementation_writes(shared_models: Path, tmp_path: Path) -> None:
    golden = json.loads((shared_models / "gpt2-tiny" / "golden.json").read_text())["inputs"]
    store = package_quietly(
        shared_models / "gpt2-tiny", tmp_path / "store", sequences=(16,), bitwidths=(8, 32), slices=1
    )
    for bits in (8, 32):
        with Engine(store) as engine:
            for entry in golden:
                result = engine.generate(entry["prompt"], GenerateOptions(40), engine.uniform_plan(bits))
                assert list(result.ids) == entry["output_ids"]
                assert result.text == entry["output_text"]
            tokens, logits = zip(*golden[0]["first_step_top5"], strict=True)
            found = logits_of(engine, engine.uniform_plan(bits), [np.array(golden[0]["prompt_ids"])])[0]
            np.testing.assert_allclose(found[list(tokens)], logits, atol=1e-4 if bits == 32 else 0.1)
