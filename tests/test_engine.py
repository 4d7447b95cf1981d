"""The engine against an independent numpy model, and against itself under every way of keeping layers."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.random_model import EncoderShape, sentence, write_random_bert
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.pipeline import Cancelled
from device_agent.plan import LayerPlan, Plan, Residency
from host.checkpoint import load_checkpoint
from shard_store.errors import BudgetError, ChecksumError, PlanError, RequestError
from shard_store.geometry import BITWIDTHS, LATTICE_BITWIDTHS
from shard_store.reader import Store
from shard_store.store_files import SHARD_FILES
from tests.lattice import dequantised
from tests.packaging import package_quietly
from tests.reference import reference_forward

MIB = 1 << 20
GOLDEN = (
    "bert-embedding", "bert-sequence", "bert-token", "distilbert-sequence", "roberta-embedding", "roberta-sequence",
)  # fmt: skip

StoreOf = Callable[[str], Path]


def golden_case(folder: Path, name: str) -> dict[str, Any]:
    case = json.loads((folder / "golden.json").read_text())[name]
    assert isinstance(case, dict)
    return case


def streamed(plan: Plan, agents: int = 1, in_flight: int = 2) -> Plan:
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    return replace(plan, loading_agents=agents, layers_in_flight=in_flight)


@pytest.mark.parametrize("name", GOLDEN)
def test_exact_mode_equals_the_reference_implementation(name: str, golden_store: StoreOf, golden_models: Path) -> None:
    case = golden_case(golden_models, name)
    with Engine(golden_store(name)) as engine:
        answer = engine.answer(case["texts"], engine.uniform_plan(32))
    for number, output in enumerate(answer.outputs):
        expected = np.asarray(case["output"][number], np.float32)
        tokens = len(answer.tokens[number])
        assert answer.tokens[number].ids.tolist() == case["input_ids"][number][:tokens]
        if any(case["token_type_ids"][number]):
            continue  # made by hand: no text has these types
        np.testing.assert_allclose(output, expected[:tokens] if expected.ndim == 2 else expected, atol=1e-4)


SHAPES = {
    "heads of 32, 3 slices of 2 heads": (EncoderShape(3, 192, 6, 384, 64, 64), 3),
    "heads of 64, 4 slices": (EncoderShape(3, 256, 4, 512, 64, 64), 4),
    "heads of 32, 16 slices": (EncoderShape(2, 512, 16, 1024, 64, 64), 16),
}


@pytest.fixture(scope="session", params=SHAPES, ids=lambda name: name.replace(" ", "-"))
def random_case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random checkpoint and its store."""
    shape, slices = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("random")
    write_random_bert(folder / "model", shape)
    return folder / "model", package_quietly(folder / "model", folder / "store", sequences=(16,), slices=slices)


def random_plan(generator: np.random.Generator, layers: int, slices: int) -> Plan:
    """Any layers, any width; each layer at its own mix of bitwidths, one in five exact."""
    depth, width = int(generator.integers(1, layers + 1)), int(generator.integers(1, slices + 1))
    chosen = sorted(generator.choice(layers, depth, replace=False).tolist())
    return Plan(
        tuple(
            LayerPlan(
                layer,
                (32,) * width
                if generator.random() < 0.2
                else tuple(generator.choice(LATTICE_BITWIDTHS, width).tolist()),
            )
            for layer in chosen
        )
    )


def relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_any_layers_slices_and_bits_equal_the_reference_of_the_lattice(random_case: tuple[Path, Path]) -> None:
    model, path = random_case
    checkpoint, generator = load_checkpoint(model), np.random.default_rng(7)
    with Engine(path) as engine, Store.open(path) as store:
        geometry = store.manifest.geometry
        for _ in range(12):
            plan = random_plan(generator, geometry.layers, geometry.slices)
            answer = engine.answer([sentence(int(generator.integers(3, 17)))], plan)
            expected = reference_forward(
                checkpoint, answer.tokens[0].ids[None],
                layers=[layer.layer for layer in plan.layers], kept_slices=plan.slices, slices=geometry.slices,
                replace_layer=dequantised(store, plan),
            ).output[0]  # fmt: skip
            exact = all(32 in layer.bitwidths for layer in plan.layers)
            assert relative_error(answer.outputs[0], expected) < (1e-5 if exact else 0.02), plan


def test_int8_error_is_that_of_the_activations(random_case: tuple[Path, Path]) -> None:
    """With the runtime's rounding of activations simulated, nearly nothing is left of the difference."""
    model, path = random_case
    checkpoint = load_checkpoint(model)
    with Engine(path) as engine, Store.open(path) as store:
        plan = engine.uniform_plan(8, layers=1)
        answer = engine.answer([sentence(12)], plan)
        rounded, smooth = (
            reference_forward(
                checkpoint, answer.tokens[0].ids[None], layers=[0],
                slices=store.manifest.geometry.slices, replace_layer=dequantised(store, plan),
                int8_activations=simulate,
            ).output[0]
            for simulate in (True, False)
        )  # fmt: skip
    assert relative_error(answer.outputs[0], rounded) < 0.25 * relative_error(answer.outputs[0], smooth)


@pytest.mark.parametrize("bits", BITWIDTHS)
def test_streamed_equals_resident_byte_for_byte(bits: int, minilm_store: Path) -> None:
    texts = ["a short text", "another one that is a little longer than the first", "third"]
    with Engine(minilm_store, EngineOptions(budget_bytes=1 << 30)) as engine:
        resident_plan = engine.uniform_plan(bits)
        engine.answer(texts, resident_plan)
        resident = engine.answer(texts, resident_plan)
        assert resident.report.resident_layers == 6
        assert resident.report.times.read_ms == 0.0
    for agents, in_flight in ((1, 1), (1, 2), (2, 3), (3, 6)):
        with Engine(minilm_store) as engine:
            plan = streamed(engine.uniform_plan(bits), agents, in_flight)
            answer = engine.answer(texts, plan)
            assert answer.report.times.read_ms > 0.0
            for one, other in zip(resident.outputs, answer.outputs, strict=True):
                assert one.tobytes() == other.tobytes()


def test_preloaded_layers_are_read_once(minilm_store: Path) -> None:
    with Engine(minilm_store) as engine:
        plan = engine.uniform_plan(4).with_residency([Residency.PRELOADED] * 3 + [Residency.STREAMED] * 3)
        first, second = (engine.answer(["hello there"], plan) for _ in range(2))
        expected = engine.answer(["hello there"], streamed(plan))
    assert first.outputs[0].tobytes() == second.outputs[0].tobytes() == expected.outputs[0].tobytes()
    assert second.report.times.read_ms < first.report.times.read_ms


def test_batches_answer_as_single_texts_do(golden_store: StoreOf) -> None:
    texts = ["good", "the bad film", "a good good film that is not bad at all"] * 7
    with Engine(golden_store("bert-sequence")) as engine:
        together = engine.answer(texts)
        assert together.report.passes < len(texts)
        for text, output in zip(texts[:3], together.outputs, strict=False):
            assert engine.answer([text]).outputs[0].tobytes() == output.tobytes()


@pytest.mark.parametrize("budget_mib", [16, 24, 40, 200])
def test_what_the_model_holds_never_exceeds_the_budget(budget_mib: int, minilm_store: Path) -> None:
    with Engine(minilm_store, EngineOptions(budget_bytes=budget_mib * MIB)) as engine:
        for words in (3, 40, 100, 3, 100):
            report = engine.answer(["word " * words], engine.uniform_plan(8)).report
            assert 0 < report.model_peak_bytes <= budget_mib * MIB
        resident = report.resident_layers
    assert resident == {16: resident, 24: resident, 40: 6, 200: 6}[budget_mib]
    assert resident < 6 or budget_mib > 16


def test_a_budget_that_holds_not_even_one_layer_is_refused(minilm_store: Path) -> None:
    with Engine(minilm_store, EngineOptions(budget_bytes=MIB)) as engine:
        for refused in (engine.check, lambda plan: engine.answer(["hello"], plan)):
            with pytest.raises(BudgetError, match=r"budget 1\.0 MiB is too small: this plan needs \d+\.\d MiB"):
                refused(engine.uniform_plan())


def test_a_budget_too_small_for_the_whole_model_may_do_for_a_part(minilm_store: Path) -> None:
    with Engine(minilm_store, EngineOptions(budget_bytes=9 * MIB)) as engine:
        with pytest.raises(BudgetError):
            engine.check(engine.uniform_plan())
        narrow = engine.uniform_plan(slices=2)
        engine.check(narrow)
        assert engine.answer(["hello"], narrow).report.slices == 2


def test_over_long_text_is_refused_or_cut(golden_store: StoreOf) -> None:
    with Engine(golden_store("bert-sequence")) as engine:
        with pytest.raises(RequestError, match=r"input 1 has 102 tokens, the limit is 20; shorten it or ask"):
            engine.answer(["good", "good " * 100])
        assert len(engine.answer(["good " * 100], truncate=True).tokens[0]) == 20
        with pytest.raises(RequestError, match="0 inputs"):
            engine.answer([])


def test_plans_that_the_store_cannot_run_are_refused(
    golden_models: Path, tmp_path: Path, golden_store: StoreOf
) -> None:
    narrow = package_quietly(golden_models / "bert-sequence", tmp_path / "narrow", sequences=(16,), bitwidths=(4, 8))
    with Engine(narrow) as engine:
        with pytest.raises(PlanError, match="no 2-bit shards, only 4, 8"):
            engine.uniform_plan(2)
        with pytest.raises(PlanError, match="9 layers asked, the store has 1 to 2"):
            engine.uniform_plan(layers=9)
        with pytest.raises(PlanError, match="slices asked"):
            engine.answer(["good"], Plan((LayerPlan(0, (8,) * 99),)))


def test_a_damaged_shard_is_named_and_the_engine_stays_usable(golden_models: Path, tmp_path: Path) -> None:
    path = package_quietly(golden_models / "bert-sequence", tmp_path / "store", sequences=(16,), bitwidths=(4, 8))
    with Store.open(path) as store:
        span = store.manifest.shards[8][1][2]
    with (path / SHARD_FILES[8]).open("r+b") as file:
        file.seek(span.offset + span.nbytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with Engine(path) as engine:
        for _ in range(2):
            with pytest.raises(ChecksumError, match=r"layer 1, slice 2, 8 bits"):
                engine.answer(["good"])
        held = engine.ledger.held_bytes
        assert len(engine.answer(["good"], engine.uniform_plan(4)).outputs) == 1
        with pytest.raises(ChecksumError):
            engine.answer(["good"])
        assert engine.ledger.held_bytes >= held


def test_cancelling_stops_between_layers_and_frees_what_was_loaded(minilm_store: Path) -> None:
    with Engine(minilm_store) as engine:
        plan = streamed(engine.uniform_plan(8), in_flight=3)
        engine.answer(["warm up"], plan)
        sequence = min(engine.manifest.description.sequences)
        frame_bytes = engine.footprint(plan, sequence, 1).layers[0].ready_bytes

        def held_beside_frames() -> int:
            """How many frames are set aside for the next pass, at most three, is a matter of timing."""
            frames = engine._source.executor.set_aside
            assert frames <= 3
            return engine.ledger.held_bytes - frames * frame_bytes

        held, calls = held_beside_frames(), iter([False, False, True])
        with pytest.raises(Cancelled):
            engine.answer(["hello"], plan, cancelled=lambda: next(calls))
        assert held_beside_frames() == held
        assert next(calls, None) is None
        engine.answer(["hello"], plan)
