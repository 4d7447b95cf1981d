"""The pipeline with layers that record, wait and fail: order, limits, and that nothing is ever left behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier, Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent.memory import Footprint, LayerFootprint, Ledger
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Cancelled, Pass, Pipeline
from device_agent.plan import LayerPlan, Plan, Residency, Schedule
from shard_store.errors import BudgetError, ChecksumError, ExecutorError
from tests.fake_layers import AGENT_BYTES, WAIT_SECONDS, FakeLayers, fake_layers

READY, LOADING, STORED = 10, 5, 7
PLENTY = 1 << 40


@dataclass(frozen=True, slots=True)
class Rig:
    """A pipeline over fake layers, and its ledger."""

    layers: FakeLayers
    ledger: Ledger
    pipeline: Pipeline

    def run(
        self, plan: Plan, sequence: int = 16, budget: int = PLENTY, cancelled: Callable[[], bool] = lambda: False
    ) -> PhaseTimes:
        return self.pipeline.run(Pass(plan, sequence, footprint(plan), budget), (), cancelled)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Every test ends with the pipeline closed and nothing left."""
    layers, ledger = fake_layers(monkeypatch), Ledger()
    rig = Rig(layers, ledger, Pipeline(layers.as_source(), ledger))
    yield rig
    rig.layers.hooks.clear()
    rig.pipeline.close()
    assert not layers.alive
    assert ledger.held_bytes == 0


def footprint(plan: Plan) -> Footprint:
    count = len(plan.layers)
    return Footprint(0, 0, AGENT_BYTES, (LayerFootprint(READY, LOADING),) * count, (STORED,) * count)


def plan_of(*residency: Residency, agents: int = 1, in_flight: int = 2, bits: int = 8) -> Plan:
    layers = tuple(LayerPlan(index, (bits,), choice) for index, choice in enumerate(residency))
    return Plan(layers, agents, in_flight)


def streamed(layers: int, agents: int = 1, in_flight: int = 2) -> Plan:
    return plan_of(*[Residency.STREAMED] * layers, agents=agents, in_flight=in_flight)


def resident(layers: int, bits: int = 8) -> Plan:
    return plan_of(*[Residency.RESIDENT] * layers, bits=bits)


def fail(error: BaseException) -> None:
    raise error


def wait(event: Event) -> None:
    assert event.wait(WAIT_SECONDS)


@given(
    st.lists(st.lists(st.sampled_from(Residency), min_size=1, max_size=7), min_size=1, max_size=3),
    st.integers(1, 4), st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_plan_runs_in_order_within_its_limits(
    monkeypatch: pytest.MonkeyPatch, choices: list[list[Residency]], agents: int, in_flight: int
) -> None:
    layers, ledger = fake_layers(monkeypatch), Ledger()
    rig = Rig(layers, ledger, Pipeline(layers.as_source(), ledger))
    plans = [plan_of(*choice, agents=agents, in_flight=in_flight) for choice in choices]
    budget = max(footprint(plan).peak_bytes(plan) for plan in plans)
    for choice, plan in zip(choices, plans, strict=True):
        layers.forget()
        rig.run(plan, budget=budget)
        assert layers.of("run") == list(range(len(choice)))
        assert layers.most_under_way <= in_flight
        assert layers.most_loading <= min(agents, in_flight)
        assert ledger.peak_bytes <= budget
        kept = [handle.layer.layer for handle in layers.alive]
        assert set(kept) >= {index for index, residency in enumerate(choice) if residency is Residency.RESIDENT}
        stored = len(rig.pipeline._held.preloaded)
        assert stored >= choice.count(Residency.PRELOADED)
        assert ledger.held_bytes == agents * AGENT_BYTES + READY * len(kept) + STORED * stored
    rig.pipeline.close()
    assert not layers.alive
    assert ledger.held_bytes == 0


@st.composite
def tight_passes(draw: st.DrawFn) -> tuple[Plan, Footprint, int]:
    """Any plan with layers of any sizes, and any budget from the least that can hold it."""
    count, sizes = draw(st.integers(1, 7)), st.integers(0, 50)
    residency = st.sampled_from([Residency.STREAMED, Residency.STREAMED, Residency.RESIDENT])
    plan = replace(
        plan_of(*[draw(residency) for _ in range(count)], agents=draw(st.integers(1, 4)), in_flight=draw(
            st.integers(1, 9))),
        schedule=draw(st.sampled_from(Schedule)),
    )  # fmt: skip
    costs = tuple(LayerFootprint(draw(sizes), draw(sizes)) for _ in range(count))
    full = Footprint(0, 0, AGENT_BYTES, costs, (STORED,) * count)
    least = plan.loading_agents * AGENT_BYTES + least_bytes(plan, costs)
    return plan, full, draw(st.integers(least, full.peak_bytes(plan) + 10))


def least_bytes(plan: Plan, costs: Sequence[LayerFootprint]) -> int:
    """With one layer passing at a time, in turn; or all of them where nothing is freed before the end."""
    held = most = 0
    for layer, cost in zip(plan.layers, costs, strict=True):
        most = max(most, held + cost.ready_bytes + cost.loading_bytes)
        stays = layer.residency is Residency.RESIDENT or plan.schedule is not Schedule.PIPELINED
        held += cost.ready_bytes if stays else 0
    return most


@given(tight_passes())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_agents_wait_rather_than_exceed_any_budget(
    monkeypatch: pytest.MonkeyPatch, case: tuple[Plan, Footprint, int]
) -> None:
    plan, costs, budget = case
    layers, ledger = fake_layers(monkeypatch), Ledger()
    pipeline = Pipeline(layers.as_source(), ledger)
    pipeline.run(Pass(plan, 16, costs, budget), (), lambda: False)
    assert layers.of("run") == list(range(len(plan.layers)))
    assert ledger.peak_bytes <= min(budget, costs.peak_bytes(plan))
    pipeline.close()
    assert not layers.alive
    assert ledger.held_bytes == 0


@pytest.mark.parametrize("agents", [1, 3])
def test_nothing_is_freed_before_the_end_if_the_schedule_says_so(rig: Rig, agents: int) -> None:
    for schedule in (Schedule.FREE_LAST, Schedule.LOAD_FIRST):
        rig.layers.forget()
        rig.run(replace(streamed(4, agents=agents, in_flight=1), schedule=schedule))
        assert rig.layers.most_under_way == 4
        assert [what for what, _ in rig.layers.events][-4:] == ["release"] * 4
        assert rig.layers.of("run") == [0, 1, 2, 3]
        assert rig.ledger.held_bytes == agents * AGENT_BYTES


def test_all_is_loaded_before_the_first_layer_runs_if_the_schedule_says_so(rig: Rig) -> None:
    rig.run(replace(streamed(4), schedule=Schedule.LOAD_FIRST))
    assert [what for what, _ in rig.layers.events if what in {"prepare", "run"}] == ["prepare"] * 4 + ["run"] * 4


def test_execution_overlaps_loading_where_nothing_is_freed(rig: Rig) -> None:
    began = Event()
    rig.layers.hooks = {("run", 0): began.set, ("load", 3): partial(wait, began)}
    rig.run(replace(streamed(4), schedule=Schedule.FREE_LAST))
    assert rig.layers.of("run") == [0, 1, 2, 3]


@pytest.mark.parametrize("schedule", [Schedule.FREE_LAST, Schedule.LOAD_FIRST])
def test_a_failure_frees_what_was_to_be_freed_last(rig: Rig, schedule: Schedule) -> None:
    rig.layers.hooks = {("run", 2): partial(fail, ExecutorError("refused"))}
    with pytest.raises(ExecutorError):
        rig.run(replace(streamed(4), schedule=schedule))
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == AGENT_BYTES


def test_cancelling_ends_the_wait_for_all_layers(rig: Rig) -> None:
    with pytest.raises(Cancelled):
        rig.run(replace(streamed(4), schedule=Schedule.LOAD_FIRST), cancelled=lambda: bool(rig.layers.of("prepare")))
    assert not rig.layers.of("run")


def test_layers_that_will_never_fit_are_refused_with_the_numbers(rig: Rig) -> None:
    with pytest.raises(BudgetError, match="too small"):
        rig.run(replace(streamed(4), schedule=Schedule.FREE_LAST), budget=AGENT_BYTES + 2 * READY + LOADING)
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == AGENT_BYTES


def test_each_streamed_layer_is_freed_before_the_next_one_runs(rig: Rig) -> None:
    rig.run(streamed(3, in_flight=1))
    steps = [(what, layer) for layer in range(3) for what in ("load", "prepare", "run", "ran", "release")]
    assert rig.layers.events == [("begin", 16), *steps]


def test_the_next_layer_loads_while_one_executes(rig: Rig) -> None:
    began = Event()
    rig.layers.hooks = {("load", 1): began.set, ("run", 0): partial(wait, began)}
    rig.run(streamed(2))
    assert rig.layers.of("run") == [0, 1]


def test_agents_load_at_the_same_time(rig: Rig) -> None:
    together = Barrier(3)
    rig.layers.hooks = {("load", layer): partial(together.wait, WAIT_SECONDS) for layer in range(3)}
    rig.run(streamed(6, agents=3, in_flight=3))
    assert rig.layers.most_loading == 3


def test_layers_that_load_out_of_order_run_in_order(rig: Rig) -> None:
    later = Event()
    rig.layers.hooks = {("load", 0): partial(wait, later), ("prepare", 1): later.set}
    rig.run(streamed(4, agents=2, in_flight=3))
    assert rig.layers.of("prepare")[0] == 1
    assert rig.layers.of("run") == [0, 1, 2, 3]


ERRORS = [ChecksumError("damaged"), ExecutorError("refused"), OSError("gone"), MemoryError(), ValueError("a bug")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", ["load", "prepare", "run"])
@pytest.mark.parametrize("layer", [0, 2, 4])
def test_a_failure_frees_all_and_the_next_pass_runs(rig: Rig, at: str, layer: int, error: Exception) -> None:
    plan = streamed(5, agents=2, in_flight=3)
    rig.run(plan)
    held = rig.ledger.held_bytes
    rig.layers.forget()
    rig.layers.hooks = {(at, layer): partial(fail, error)}
    with pytest.raises(type(error)) as caught:
        rig.run(plan)
    assert caught.value is error
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == held
    assert rig.layers.of("ran") == list(range(layer))
    rig.layers.forget()
    rig.run(plan)
    assert rig.layers.of("run") == [0, 1, 2, 3, 4]


def test_of_several_failures_the_first_layer_s_is_told(rig: Rig) -> None:
    later = Event()
    first, second = ChecksumError("layer 1"), ValueError("layer 2")

    def fail_later() -> None:
        wait(later)
        raise first

    def fail_at_once() -> None:
        later.set()
        raise second

    rig.layers.hooks = {("load", 1): fail_later, ("load", 2): fail_at_once}
    with pytest.raises(ChecksumError, match="layer 1"):
        rig.run(streamed(6, agents=4, in_flight=4))
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == 4 * AGENT_BYTES


def test_an_interrupt_frees_all(rig: Rig) -> None:
    rig.layers.hooks = {("run", 1): partial(fail, KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        rig.run(streamed(4, in_flight=3))
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == AGENT_BYTES


def test_what_became_resident_before_a_failure_is_kept(rig: Rig) -> None:
    rig.layers.hooks = {("run", 2): partial(fail, ExecutorError("refused"))}
    with pytest.raises(ExecutorError):
        rig.run(resident(4))
    assert [handle.layer.layer for handle in rig.layers.alive] == [0, 1]
    assert rig.ledger.held_bytes == AGENT_BYTES + 2 * READY
    rig.layers.forget()
    rig.run(resident(4))
    assert rig.layers.of("load") == [2, 3]


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_cancelling_stops_before_the_next_layer(rig: Rig, layer: int) -> None:
    rig.run(streamed(4))
    held = rig.ledger.held_bytes
    rig.layers.forget()
    answers = iter([False] * layer + [True])
    with pytest.raises(Cancelled, match="the client went away"):
        rig.run(streamed(4, in_flight=3), cancelled=lambda: next(answers))
    assert rig.layers.of("run") == list(range(layer))
    assert not rig.layers.alive
    assert rig.ledger.held_bytes == held


def test_resident_layers_are_loaded_once(rig: Rig) -> None:
    first, second = rig.run(resident(3)), rig.run(resident(3))
    assert rig.layers.of("load") == [0, 1, 2]
    assert rig.layers.of("run") == [0, 1, 2] * 2
    assert not rig.layers.of("release")
    assert (first.read_ms, first.prepare_ms) == (6.0, 9.0)
    assert (second.read_ms, second.prepare_ms, second.wait_ms) == (0.0, 0.0, 0.0)


def test_a_resident_layer_also_serves_a_plan_that_streams_it(rig: Rig) -> None:
    rig.run(resident(2))
    rig.run(streamed(3))
    assert rig.layers.of("load") == [0, 1, 2]
    assert rig.layers.of("release") == [2]


def test_layers_of_other_bits_and_sequences_are_not_taken_for_each_other(rig: Rig) -> None:
    rig.run(resident(2))
    rig.run(resident(2, bits=4))
    rig.run(resident(2), sequence=32)
    assert rig.layers.of("load") == [0, 1] * 3
    assert [(handle.layer.bitwidths, handle.sequence) for handle in rig.layers.alive] == [
        ((8,), 16), ((8,), 16), ((4,), 16), ((4,), 16), ((8,), 32), ((8,), 32),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spare", "freed"), [(40, []), (39, [0]), (30, [0]), (29, [0, 1]), (11, [0, 1, 2]), (0, [0, 1, 2, 3])]
)
def test_idle_layers_are_freed_oldest_first_as_far_as_needed(rig: Rig, spare: int, freed: list[int]) -> None:
    rig.run(resident(4))
    rig.layers.forget()
    other = resident(2, bits=4)
    budget = footprint(other).peak_bytes(other) + spare
    rig.layers.hooks = {("load", 0): rig.ledger.restart}
    rig.run(other, budget=budget)
    assert rig.layers.of("release") == freed
    assert rig.ledger.peak_bytes <= budget


def test_layers_that_a_pass_needs_are_not_freed_for_it(rig: Rig) -> None:
    rig.run(resident(4))
    rig.layers.forget()
    plan = plan_of(Residency.RESIDENT, Residency.STREAMED, Residency.RESIDENT, Residency.STREAMED)
    rig.run(plan, budget=footprint(plan).peak_bytes(plan))
    assert rig.layers.of("release") == [1, 3, 1, 3]
    assert rig.layers.of("load") == [1, 3]


def test_preloaded_layers_are_read_once_and_prepared_every_time(rig: Rig) -> None:
    plan = plan_of(Residency.PRELOADED, Residency.PRELOADED, Residency.STREAMED)
    first, second = rig.run(plan), rig.run(plan)
    assert rig.layers.of("preload") == [0, 1]
    assert rig.layers.of("load") == [0, 1, 2] * 2
    assert second.read_ms == 2.0 < first.read_ms
    assert second.prepare_ms == 9.0
    assert rig.ledger.held_bytes == AGENT_BYTES + 2 * STORED


def test_preloaded_shards_go_only_where_another_plan_needs_their_room(rig: Rig) -> None:
    one = plan_of(Residency.PRELOADED, Residency.PRELOADED, Residency.STREAMED)
    other = plan_of(Residency.STREAMED, Residency.PRELOADED, Residency.PRELOADED)
    for plan in (one, other, one):
        rig.run(plan)
    assert rig.layers.of("preload") == [0, 1, 2]
    assert rig.ledger.held_bytes == AGENT_BYTES + 3 * STORED
    rig.run(other, budget=footprint(other).peak_bytes(other))
    assert rig.ledger.held_bytes == AGENT_BYTES + 2 * STORED
    assert rig.layers.of("preload") == [0, 1, 2]


def test_a_preload_that_fails_is_not_counted(rig: Rig) -> None:
    plan = plan_of(Residency.PRELOADED, Residency.PRELOADED, Residency.STREAMED)
    rig.layers.hooks = {("preload", 1): partial(fail, ChecksumError("damaged"))}
    with pytest.raises(ChecksumError):
        rig.run(plan)
    assert rig.ledger.held_bytes == STORED
    assert not rig.layers.of("load")
    rig.layers.hooks.clear()
    rig.run(plan)
    assert rig.layers.of("preload") == [0, 1, 1]


def test_what_the_executor_sets_aside_is_counted_between_passes(rig: Rig) -> None:
    rig.layers.set_aside = 2
    for _ in range(2):
        rig.run(streamed(4))
        assert rig.ledger.held_bytes == AGENT_BYTES + 2 * READY
    assert rig.ledger.peak_bytes <= footprint(streamed(4)).peak_bytes(streamed(4))
    rig.layers.set_aside = 0
    rig.run(streamed(4))
    assert rig.ledger.held_bytes == AGENT_BYTES


def test_the_crew_follows_the_plan(rig: Rig) -> None:
    for agents, made in ((1, 1), (1, 1), (3, 4), (2, 6)):
        rig.run(streamed(3, agents=agents))
        assert len(rig.layers.agents) == made
        assert rig.ledger.held_bytes == agents * AGENT_BYTES


def test_a_closed_pipeline_holds_nothing_and_may_run_again(rig: Rig) -> None:
    plan = plan_of(Residency.RESIDENT, Residency.PRELOADED, Residency.STREAMED)
    for _ in range(2):
        rig.run(plan)
        rig.pipeline.close()
        assert rig.ledger.held_bytes == 0
        assert not rig.layers.alive
    assert rig.layers.of("preload") == [1, 1]
    assert rig.layers.of("close") == [0, 0]


def test_more_in_flight_than_layers_is_harmless(rig: Rig) -> None:
    rig.run(replace(streamed(2), layers_in_flight=50, loading_agents=5))
    assert rig.layers.of("run") == [0, 1]


# --- passes that follow one another


def run_again(rig: Rig, plan: Plan, **options: int) -> None:
    rig.pipeline.run(Pass(plan, 16, footprint(plan), options.get("budget", PLENTY)), (), lambda: False, again=True)


def test_the_first_layers_of_the_next_pass_load_while_the_last_execute(rig: Rig) -> None:
    plan, ahead = streamed(4), Event()
    loads = 0

    def second_round() -> None:
        nonlocal loads
        loads += 1
        if loads == 2:
            ahead.set()

    rig.layers.hooks["load", 0] = second_round

    def await_second_round() -> None:
        assert ahead.wait(WAIT_SECONDS), "nothing loads ahead"

    rig.layers.hooks["run", 3] = await_second_round
    run_again(rig, plan)
    for _ in range(3):
        run_again(rig, plan)
    rig.pipeline.rest()
    assert rig.layers.of("run") == [0, 1, 2, 3] * 4
    assert rig.layers.of("begin") == [16]
    assert rig.layers.most_under_way <= plan.layers_in_flight
    assert sorted(rig.layers.of("load"))[:4] == [0, 0, 0, 0]


def test_resident_layers_stay_and_the_others_go_round(rig: Rig) -> None:
    plan = plan_of(Residency.RESIDENT, Residency.STREAMED, Residency.RESIDENT)
    for _ in range(3):
        run_again(rig, plan)
    rig.pipeline.rest()
    assert rig.layers.of("run") == [0, 1, 2] * 3
    assert (rig.layers.of("load").count(0), rig.layers.of("load").count(2)) == (1, 1)
    run_again(rig, resident(3))


def test_another_pass_frees_what_was_loaded_ahead(rig: Rig) -> None:
    run_again(rig, streamed(3))
    rig.run(streamed(2), sequence=32)
    assert not rig.layers.alive
    run_again(rig, streamed(3))
    rig.pipeline.shrink(0)
    assert not rig.layers.alive


def test_a_pass_that_fails_leaves_nothing_loaded_ahead(rig: Rig) -> None:
    run_again(rig, streamed(3))
    rig.layers.hooks["run", 1] = lambda: fail(ExecutorError("broken"))
    with pytest.raises(ExecutorError):
        run_again(rig, streamed(3))
    assert not rig.layers.alive
    rig.layers.hooks.clear()
    run_again(rig, streamed(3))


@pytest.mark.parametrize("budget", [AGENT_BYTES + READY + LOADING, AGENT_BYTES + 2 * READY + LOADING])
def test_loading_ahead_keeps_to_the_budget(rig: Rig, budget: int) -> None:
    plan = streamed(4, in_flight=1 if budget < AGENT_BYTES + 2 * READY else 2)
    for _ in range(4):
        run_again(rig, plan, budget=budget)
    assert rig.ledger.peak_bytes <= budget
