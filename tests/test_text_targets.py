"""Latency targets for generated text: the time of a step of one token, planned once for each text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from device_agent.causal_activations import Segment
from device_agent.completion import GenerateOptions
from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from device_agent.costs_file import write_costs
from device_agent.drift import Drift
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.goal import Goal
from device_agent.key_values import cache_bytes
from device_agent.memory import MIB
from device_agent.phases import PhaseTimes
from device_agent.text_run import TokenStep, token_ms, typical_times, yielding
from host.plan_preview import preview_plan
from shard_store.errors import BudgetError, PlanError
from shard_store.manifest import Manifest
from shard_store.template import TemplateKind
from tests.cli_runs import Sti
from tests.decoders import GPT2, LAYERS, LLAMA, write_decoder
from tests.http_server import serving_loaded
from tests.packaging import package_quietly
from tests.profiles import profiled_copy

BUDGET_BYTES = 64 * MIB


def steady_costs(manifest: Manifest) -> DeviceCosts:
    """A device on which a layer takes 1 ms a slice, and the head half a millisecond."""
    row = tuple(float(width) for width in range(1, manifest.geometry.slices + 1))
    prepare = PrepareCost(0.1, dict.fromkeys(manifest.bitwidths, 0.01))
    return DeviceCosts(
        device="test", model="00", read=ReadCost(0.1, 1000.0), prepare=dict.fromkeys(TemplateKind, prepare),
        execute=dict.fromkeys(TemplateKind, dict.fromkeys(manifest.description.sequences, row)),
        loading_factor=1.0, pass_ms=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text-targets")
    model = write_decoder(folder / "model", LLAMA | {"eos_token_id": None})
    plain = package_quietly(model, folder / "plain", sequences=(8,), bitwidths=(2, 8), slices=2)
    return profiled_copy(plain, folder / "store")


@pytest.fixture
def engine(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """With costs that are far from this machine's, and stay so."""
    monkeypatch.setattr("device_agent.engine.known_costs", lambda path, trials, progress: steady_costs(trials.manifest))
    monkeypatch.setattr(Drift, "observe", lambda *_: False)
    with Engine(store, EngineOptions(budget_bytes=BUDGET_BYTES)) as opened:
        yield opened


@pytest.fixture
def client(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr("device_agent.engine.known_costs", lambda path, trials, progress: steady_costs(trials.manifest))
    with serving_loaded(Engine(store, EngineOptions(budget_bytes=BUDGET_BYTES))) as client:
        yield client


def completion(client: httpx.Client, **body: object) -> dict[str, Any]:
    response = client.post("/v1/completions", json={"prompt": "w5 w6", "temperature": 0, "max_tokens": 8, **body})
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.parametrize("config", [LLAMA, GPT2])
def test_a_decoder_is_calibrated(config: dict[str, Any], tmp_path: Path) -> None:
    model = write_decoder(tmp_path / "model", config)
    store = package_quietly(model, tmp_path / "store", sequences=(8,), bitwidths=(8, 32), slices=2)
    told: list[tuple[str, int, int]] = []
    with Engine(store, EngineOptions(budget_bytes=BUDGET_BYTES)) as engine:
        before = engine.ledger.held_bytes
        costs = engine.calibrate(lambda *step: told.append(step))
        assert engine.texts.generator.model.head.kept_bytes == 0
        assert engine.ledger.held_bytes >= before
        assert engine.generate("w5 w6", GenerateOptions(3)).ids  # it goes on to work
    assert told[-1] == ("measured", told[-1][2], told[-1][2])
    for kind in TemplateKind:
        assert costs.execute[kind].keys() == {1, 8}
        assert all(0 < ms < 1000 for row in costs.execute[kind].values() for ms in row)
    assert 0 < costs.pass_ms < 1000


def test_more_time_for_a_token_buys_more_of_the_model(engine: Engine) -> None:
    whole = engine.texts.run(1e6, 10)
    assert (len(whole.plan.layers), whole.plan.slices, whole.plan.bitwidths) == (LAYERS, 2, (8,))
    assert whole.promise.reason is None
    less = engine.texts.run(4.0, 10)
    assert len(less.plan.layers) * less.plan.slices < LAYERS * 2
    assert 0 < less.promise.predicted_ms <= 4.0
    assert less.promise.predicted_loss > whole.promise.predicted_loss
    hasty = engine.texts.run(0.01, 10)
    assert (len(hasty.plan.layers), hasty.plan.slices) == (1, 1)
    assert hasty.promise.reason is not None
    assert "target 0.01 ms cannot be met" in hasty.promise.reason


def test_the_cache_and_the_head_are_taken_off_the_budget(engine: Engine) -> None:
    geometry, model = engine.manifest.geometry, engine.texts.generator.model
    taken = cache_bytes(geometry, LAYERS, 2, 64)
    assert model.room_bytes(64) == BUDGET_BYTES - taken
    run = engine.texts.run(1e6, 60)
    engine.ledger.restart()
    cache = model.open_cache(run.plan, 60)
    model.close_cache(cache)
    least = engine.texts.run(1e6, 1).promise.predicted_peak_bytes
    assert engine.elastic._outlook.facts.fixed_bytes == engine._fixed_bytes + model.head.working_bytes
    engine.budget_bytes = least
    assert engine.texts.run(1e6, 60).promise.predicted_peak_bytes <= least
    engine.budget_bytes = model.head.working_bytes + MIB
    with pytest.raises(BudgetError, match=r"too small for any plan; .* MiB for KV caches, this one of 64 tokens"):
        engine.texts.run(1e6, 60)


@pytest.mark.parametrize("missing_bytes", [100_000, 300_000, 500_000])
def test_a_plan_for_a_tight_budget_runs_within_it(missing_bytes: int, engine: Engine) -> None:
    tight = engine.texts.run(1e6, 20).promise.predicted_peak_bytes - missing_bytes
    engine.set_budget(tight)
    run = engine.texts.run(1e6, 20)
    assert any(layer.residency is not None for layer in run.plan.layers), "None: stays as far as there is room"
    engine.ledger.restart()
    expected = engine.generate("w5 w6 w7 w8 w9 w10 w11", GenerateOptions(8), run.plan)
    assert engine.ledger.peak_bytes <= tight
    engine.set_budget(BUDGET_BYTES)
    again = engine.generate("w5 w6 w7 w8 w9 w10 w11", GenerateOptions(8), run.plan)
    assert again.ids == expected.ids


def test_a_text_that_joins_takes_memory_from_layers_not_from_the_other_text(engine: Engine) -> None:
    engine.set_budget(engine.texts.run(1e6, 64).promise.predicted_peak_bytes)
    run, model = engine.texts.run(1e6, 64), engine.texts.generator.model
    first = model.open_cache(run.plan, 64)
    alone, _ = model.advance(run.plan, [Segment(np.array([5]), first)], lambda: False)
    second = model.open_cache(run.plan, 64)
    first.rewind(0)
    joined, _ = model.advance(run.plan, [Segment(np.array([5]), first)], lambda: False)
    np.testing.assert_array_equal(joined, alone)
    assert engine.ledger.peak_bytes <= engine.budget_bytes
    for cache in (first, second):
        model.close_cache(cache)


def test_a_target_over_http(client: httpx.Client) -> None:
    plain = completion(client)
    assert plain["sti"]["target_ms"] is None
    answer = completion(client, target_ms=60_000)
    summary = answer["sti"]
    assert answer["choices"] == plain["choices"]
    assert (summary["target_ms"], summary["met"], summary["layers"]) == (60_000, True, LAYERS)
    assert summary["reason"] is None
    assert 0 < summary["measured_ms"] < 60_000
    assert LAYERS * 2 + 0.5 <= summary["predicted_ms"] <= 60_000
    assert 0 < summary["predicted_peak_bytes"] <= summary["budget_bytes"]
    assert summary["model_peak_bytes"] <= summary["budget_bytes"]
    hasty = completion(client, target_ms=0.001)["sti"]
    assert (hasty["layers"], hasty["slices"], hasty["met"]) == (1, 1, False)
    assert "target 0.001 ms cannot be met" in hasty["reason"]
    single = completion(client, target_ms=60_000, max_tokens=1)["sti"]
    assert (single["measured_ms"], single["met"]) == (None, None)


def test_a_target_of_a_chat_and_its_stream(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "w3"}], "max_tokens": 4, "temperature": 0, "target_ms": 60_000}
    answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["sti"]["met"] is True


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"target_ms": 5, "bits": 8}, "give no plan, bits, layers or slices with it"),
        ({"target_ms": 0}, "target_ms"),
        ({"target_ms": 5, "memory_mb": 8}, "memory_mb: extra inputs are not permitted"),
        ({"target_ms": 5, "max_tokens": 100}, "102 tokens of prompt and answer, the model has room for 64"),
    ],
)
def test_what_cannot_be_is_refused(client: httpx.Client, body: dict[str, object], message: str) -> None:
    response = client.post("/v1/completions", json={"prompt": "w5 w6", **body})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]


def test_a_target_from_the_command_line(client: httpx.Client, sti: Sti) -> None:
    asked = ("infer", "w5 w6", "--url", client.base_url, "--max-tokens", 4, "--temperature", 0, "--target-ms", 60_000)
    (text,) = sti(*asked, "--json").json["data"]
    assert text["sti"]["met"] is True
    shown = sti(*asked)
    assert "predicted ms" in shown.out
    assert "met" in shown.out


def test_texts_correct_the_costs(client: httpx.Client, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of a test take less than a millisecond a slice: with them the forecasts fall."""
    first = completion(client, target_ms=60_000)["sti"]["predicted_ms"]
    last = first
    for _ in range(20):
        last = completion(client, target_ms=60_000)["sti"]["predicted_ms"]
    assert last < first


def test_without_a_profile_there_are_no_targets(tmp_path: Path) -> None:
    model = write_decoder(tmp_path / "model", LLAMA)
    store = package_quietly(model, tmp_path / "store", sequences=(8,), bitwidths=(8,), slices=1)
    with Engine(store) as engine, pytest.raises(PlanError, match="no importance profile"):
        engine.ready(None, Goal(target_ms=5.0))


def test_a_default_target_is_planned_at_the_start(engine: Engine) -> None:
    engine.ready(None, Goal(target_ms=5.0))
    assert engine.elastic.latest is not None
    assert engine.settle(lambda: False)


def test_steps_are_judged_by_their_median() -> None:
    steps = [TokenStep(ms, PhaseTimes(total_ms=ms), plain) for ms, plain in ((90, True), (5, False), (7, True))]
    assert token_ms(steps) == 7
    assert token_ms([]) is None
    assert typical_times(steps) == PhaseTimes(total_ms=7)
    assert typical_times(steps[1:2]) is None


def test_a_step_is_planned_on_the_host(store: Path, engine: Engine, tmp_path: Path) -> None:
    write_costs(tmp_path / "costs.json", steady_costs(engine.manifest))
    costs = tmp_path / "costs.json"
    preview = preview_plan(store, costs, target_ms=4.0, budget_bytes=BUDGET_BYTES, tokens=64)
    assert preview.sequence == 1
    assert yielding(preview.choice.plan) == engine.texts.run(4.0, 64).plan
    assert preview.choice.predicted_peak_bytes == engine.texts.run(4.0, 64).promise.predicted_peak_bytes
    with pytest.raises(PlanError, match="65 tokens asked, the model has room for 64"):
        preview_plan(store, costs, target_ms=4.0, budget_bytes=BUDGET_BYTES, tokens=65)
