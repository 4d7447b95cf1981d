"""The engine with targets and budgets: real layers, a made-up profile, costs that were measured or written by hand."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from device_agent.elastic import Elastic
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.goal import Goal
from device_agent.layout_probe import probe_layout
from device_agent.litert import Runtime
from device_agent.memory import MIB
from device_agent.packed_file import PackedTemplate
from device_agent.plan import Plan, Residency
from shard_store.errors import BudgetError, ExecutorError, PlanError, RequestError
from shard_store.geometry import Geometry
from shard_store.manifest import Manifest
from shard_store.template import Template, TemplateKind
from tests.profiles import profiled_copy

TEXT = "where is my parcel?"
SLOW = Goal(target_ms=1e6)


def steady_costs(manifest: Manifest) -> DeviceCosts:
    """A device on which a layer takes 1 ms a slice and reading is what takes time."""
    row = tuple(float(width) for width in range(1, manifest.geometry.slices + 1))
    execute = dict.fromkeys(manifest.description.sequences, row)
    prepare = PrepareCost(0.1, dict.fromkeys(manifest.bitwidths, 0.01))
    return DeviceCosts(
        device="test", model="00", read=ReadCost(0.1, 1000.0), prepare=dict.fromkeys(TemplateKind, prepare),
        execute=dict.fromkeys(TemplateKind, execute), loading_factor=1.0, pass_ms=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(golden_store: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profiled_copy(golden_store("bert-sequence"), tmp_path_factory.mktemp("targets") / "store")


@pytest.fixture
def learner(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Begins with costs that are far from this machine's."""
    monkeypatch.setattr("device_agent.engine.known_costs", lambda path, trials, progress: steady_costs(trials.manifest))
    with Engine(store, EngineOptions(budget_bytes=64 * MIB)) as opened:
        yield opened


@pytest.fixture
def engine(learner: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Stays with these costs."""
    monkeypatch.setattr(Elastic, "observe", lambda *_: None)
    return learner


def settled(engine: Engine, goal: Goal) -> Plan:
    """The plan that runs once all that should stay is there."""
    engine.answer([TEXT], goal=goal)
    assert engine.settle(lambda: False)
    (plan,) = engine.answer([TEXT], goal=goal).report.plans
    return plan


def test_all_the_time_buys_the_whole_model(engine: Engine) -> None:
    answer = engine.answer([TEXT], goal=SLOW)
    geometry = engine.manifest.geometry
    assert (answer.report.layers, answer.report.slices) == (geometry.layers, geometry.slices)
    outcome = answer.report.outcome
    assert outcome is not None and outcome.met and outcome.reason is None
    assert (outcome.target_ms, answer.report.bits) == (1e6, (8,))
    assert outcome.predicted_loss < 1e-4
    assert 0 < outcome.predicted_ms <= 1e6


def test_less_time_buys_less_and_says_so(engine: Engine) -> None:
    geometry = engine.manifest.geometry
    losses = []
    whole_ms = geometry.layers * geometry.slices + 0.5
    for target_ms in (whole_ms + 1, whole_ms / 2, whole_ms / 4):
        plan = settled(engine, Goal(target_ms))
        outcome = engine.answer([TEXT], goal=Goal(target_ms)).report.outcome
        assert outcome is not None and outcome.predicted_ms <= target_ms
        assert len(plan.layers) * plan.slices <= target_ms
        losses.append(outcome.predicted_loss)
    assert losses == sorted(losses) and losses[0] < losses[-1]


def test_a_target_that_cannot_be_met_is_answered_as_fast_as_can_be(engine: Engine) -> None:
    report = engine.answer([TEXT], goal=Goal(target_ms=0.01)).report
    assert (report.layers, report.slices) == (1, 1)
    assert report.outcome is not None and not report.outcome.met
    assert report.outcome.reason is not None and "target 0.01 ms cannot be met" in report.outcome.reason


def test_what_ran_for_a_target_is_what_its_plan_gives(engine: Engine) -> None:
    for target_ms in (3.0, 8.0, 1e6):
        answer = engine.answer([TEXT], goal=Goal(target_ms))
        again = engine.answer([TEXT], answer.report.plans[0])
        np.testing.assert_array_equal(answer.outputs[0], again.outputs[0])


def test_layers_that_stay_are_loaded_when_there_is_time(engine: Engine) -> None:
    first = engine.answer([TEXT], goal=SLOW)
    assert first.report.resident_layers == 0, "the first answer does not wait for layers to settle"
    assert not engine.settle(lambda: True), "interrupted"
    assert engine.settle(lambda: False)
    second = engine.answer([TEXT], goal=SLOW)
    assert second.report.resident_layers == engine.manifest.geometry.layers
    assert second.report.times.read_ms == 0.0
    np.testing.assert_array_equal(first.outputs[0], second.outputs[0])
    assert engine.settle(lambda: True), "nothing is left to do"


def test_memory_of_one_request_is_capped(engine: Engine) -> None:
    plan = settled(engine, SLOW)
    whole = engine.footprint(plan, 16, 1).peak_bytes(plan)
    capped = engine.answer([TEXT], goal=replace(SLOW, memory_bytes=whole - 1))
    assert capped.report.budget_bytes == whole - 1
    assert capped.report.model_peak_bytes <= whole - 1
    with pytest.raises(RequestError, match="memory_mb: 65 asked, the agent has 64; ask for less or raise its budget"):
        engine.answer([TEXT], goal=Goal(memory_bytes=65 * MIB))
    with pytest.raises(BudgetError):
        engine.answer([TEXT], goal=Goal(target_ms=5.0, memory_bytes=1))


def test_widths_that_cannot_be_written_in_place_are_planned_with_their_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such layers are unpacked beside the packed ones: a plan that counted on less must not be refused afterwards."""

    def refuse_odd(runtime: Runtime, template: Template, geometry: Geometry) -> PackedTemplate:
        if template.slices % 2:
            raise ExecutorError("packed layout: not here")
        return probe_layout(runtime, template, geometry)

    monkeypatch.setattr("device_agent.inplace.probe_layout", refuse_odd)
    for budget_bytes in range(5 * MIB, 4 * MIB, -(16 << 10)):
        goal = replace(SLOW, memory_bytes=budget_bytes)
        for target_ms in (1e6, 4.0, 2.5):
            try:
                report = engine.answer([TEXT], goal=replace(goal, target_ms=target_ms)).report
            except BudgetError as error:
                assert "too small for any plan" in str(error)
            else:
                assert report.model_peak_bytes <= budget_bytes
    assert engine._source.executor.refused


def test_a_shrunk_budget_frees_at_once_and_keeps_what_fits(engine: Engine) -> None:
    plan = settled(engine, SLOW)
    held = engine.ledger.held_bytes
    limit = held - engine._pipeline._crew_bytes - 1  # too little for a run of this tiny model, hence not by set_budget
    engine._pipeline.shrink(limit)
    assert engine.ledger.held_bytes <= limit
    present = engine._pipeline.present(plan, 16)
    assert 0 < len(present) < len(plan.layers)
    assert present == frozenset(range(len(present))), "from the bottom up"
    engine.set_budget(engine.footprint(plan, 16, 1).peak_bytes(plan) - 1)
    smaller = engine.answer([TEXT], goal=SLOW).report
    assert smaller.model_peak_bytes <= engine.budget_bytes
    engine.set_budget(64 * MIB)
    assert settled(engine, SLOW) == plan


def test_a_budget_for_nothing_changes_nothing(engine: Engine) -> None:
    settled(engine, SLOW)
    held = engine.ledger.held_bytes
    with pytest.raises(BudgetError, match="memory budget"):
        engine.set_budget(1000)
    assert (engine.budget_bytes, engine.ledger.held_bytes) == (64 * MIB, held)


def test_several_texts_share_the_target(engine: Engine) -> None:
    texts = [TEXT, "no", "a longer text that takes sixteen tokens or more and so it goes on"] * 6
    report = engine.answer(texts, goal=SLOW).report
    assert len(report.plans) == report.passes >= 2
    assert report.outcome is not None and report.outcome.met
    assert report.outcome.predicted_ms > 0


def test_the_promised_memory_is_what_the_ledger_sees_at_most(engine: Engine) -> None:
    for target_ms in (2.0, 1e6, 4.0, 6.0, 1e6):
        report = engine.answer([TEXT], goal=Goal(target_ms)).report
        assert report.outcome is not None
        assert report.model_peak_bytes <= report.outcome.predicted_peak_bytes <= engine.budget_bytes
        engine.settle(lambda: False)


def test_what_earlier_runs_left_in_memory_is_promised_too(engine: Engine) -> None:
    engine.answer([TEXT], goal=SLOW)
    engine.settle(lambda: False)
    held_bytes = engine.ledger.held_bytes
    report = engine.answer([TEXT], goal=Goal(SLOW.target_ms, memory_bytes=held_bytes - 1)).report
    assert report.outcome is not None
    assert report.model_peak_bytes == report.outcome.predicted_peak_bytes == held_bytes


def test_runs_correct_the_costs(learner: Engine) -> None:
    before = learner.elastic.costs
    for _ in range(12):
        learner.answer([TEXT], goal=SLOW)
        learner.settle(lambda: False)
    after = learner.elastic.costs.execute[TemplateKind.INT8][16][-1]
    assert after < before.execute[TemplateKind.INT8][16][-1], "layers of a test take less than a millisecond a slice"


def test_without_a_profile_there_are_no_targets(golden_store: Callable[[str], Path]) -> None:
    with Engine(golden_store("bert-sequence"), EngineOptions(budget_bytes=64 * MIB)) as engine:
        with pytest.raises(PlanError, match="no importance profile, so nothing can be planned for a target"):
            engine.answer([TEXT], goal=SLOW)
        engine.answer([TEXT])
        with pytest.raises(BudgetError):
            engine.set_budget(1000)
        engine.set_budget(32 * MIB)


def test_costs_are_measured_once_and_kept(store: Path, tmp_path: Path) -> None:
    options = EngineOptions(budget_bytes=64 * MIB, costs_path=tmp_path / "costs.json")
    with Engine(store, options) as engine:
        engine.ready(None, SLOW)
        (plan,) = engine.answer([TEXT], goal=SLOW).report.plans
        assert all(layer.residency is Residency.RESIDENT for layer in plan.layers)
    written = (tmp_path / "costs.json").read_bytes()
    with Engine(store, options) as engine:
        engine.ready(engine.uniform_plan(), Goal())
        assert engine.answer([TEXT], goal=SLOW).report.outcome is not None
    assert (tmp_path / "costs.json").read_bytes() == written
