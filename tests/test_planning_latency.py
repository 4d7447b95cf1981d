"""The forecast against an independent simulation, event by event, and the many-at-once form against both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.plan import LayerPlan, Plan, Residency, Schedule
from device_agent.planning.batch import Loads, finish_ms, loads_of
from device_agent.planning.latency import count_reads, forecast
from device_agent.planning.options import options_of
from device_agent.planning.schedule import Way, Work, schedule
from tests.planning_facts import random_facts

TICK = 1e-9


def simulate(work: list[Work], way: Way) -> float:
    """End of the last layer: state by state, each until the next thing ends."""
    queue = [index for index, item in enumerate(work) if item.loads]
    launched, queue = queue[: way.in_flight], queue[way.in_flight :]
    crowded = way.crowding_factor if way.agents > 1 else 1.0
    left = {index: [work[index].read_ms, work[index].prepare_ms * crowded] for index in launched}
    working: list[int] = []  # loads that have an agent
    preparing: list[int] = []
    done: set[int] = set()
    now, layer, executing = 0.0, 0, work[0].execute_ms
    for _ in range(10_000):
        while len(working) < way.agents and (waiting := [i for i in launched if i not in working and i not in done]):
            working.append(waiting[0])
        for index in [i for i in working if left[i][0] <= TICK and i not in preparing]:
            if sum(i < index and i not in done for i in launched) < way.lanes:  # each before has a lane to itself
                preparing.append(index)
        finished = [i for i in preparing if left[i][1] <= TICK]
        if finished:
            done |= set(finished)
            working = [i for i in working if i not in done]
            preparing = [i for i in preparing if i not in done]
            continue
        reading = [i for i in working if left[i][0] > TICK][:1]
        loading = len(done) < len(launched)
        runs = (not work[layer].loads or layer in done) and (not way.load_first or not loading)
        if runs and executing <= TICK:
            if work[layer].loads and queue:
                launched.append(queue.pop(0))
                left[launched[-1]] = [work[launched[-1]].read_ms, work[launched[-1]].prepare_ms * crowded]
            layer += 1
            if layer == len(work):
                return now
            executing = work[layer].execute_ms
            continue
        rate = 1.0 / way.loading_factor if loading else 1.0
        ends = [left[i][0] for i in reading] + [left[i][1] for i in preparing] + ([executing / rate] if runs else [])
        step = min(ends)
        now += step
        for index in reading:
            left[index][0] -= step
        for index in preparing:
            left[index][1] -= step
        executing -= step * rate if runs else 0.0
    raise AssertionError("the simulation does not end")


def durations() -> st.SearchStrategy[float]:
    return st.just(0.0) | st.floats(0.01, 20.0)


def works() -> st.SearchStrategy[list[Work]]:
    return st.lists(
        st.builds(Work, durations(), durations(), st.floats(0.01, 20.0), st.booleans()), min_size=1, max_size=7
    )


def ways(load_first: bool = False) -> st.SearchStrategy[Way]:
    factors = st.sampled_from([1.0, 1.3, 2.0])
    return st.builds(
        Way, st.integers(1, 4), st.integers(1, 5), st.integers(1, 3), factors, st.just(load_first), factors
    )


@settings(deadline=None, max_examples=300)
@given(works(), ways())
def test_the_recurrence_is_what_happens(work: list[Work], way: Way) -> None:
    assert schedule(range(len(work)), work, way)[-1].execute.end_ms == pytest.approx(simulate(work, way), abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(works(), st.integers(1, 4), st.integers(1, 3))
def test_all_loaded_first(work: list[Work], agents: int, lanes: int) -> None:
    way = Way(agents, len(work), lanes, 1.5, load_first=True)
    assert schedule(range(len(work)), work, way)[-1].execute.end_ms == pytest.approx(simulate(work, way), abs=1e-6)


@settings(deadline=None, max_examples=100)
@given(works(), ways(), st.integers(0, 6), st.floats(0.0, 5.0))
def test_a_longer_duration_never_ends_earlier(work: list[Work], way: Way, which: int, more: float) -> None:
    item = work[which % len(work)]
    longer = list(work)
    longer[which % len(work)] = Work(item.read_ms + more, item.prepare_ms + more, item.execute_ms + more, item.loads)
    before, after = (schedule(range(len(work)), w, way)[-1].execute.end_ms for w in (work, longer))
    assert after >= before - 1e-9


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 5), st.lists(st.tuples(durations(), durations()), min_size=1, max_size=6), ways(), st.floats(0.1, 9)
)
def test_many_at_once(ready: int, loads: list[tuple[float, float]], way: Way, execute_ms: float) -> None:
    scales = np.array([[1.0], [0.5], [3.0]])
    read_ms, prepare_ms = (scales * np.array(column) for column in zip(*loads, strict=True))
    ends = finish_ms(Loads(read_ms, prepare_ms), way, ready, execute_ms)
    for scale, end in zip(scales[:, 0], ends, strict=True):
        work = [Work(0.0, 0.0, execute_ms, loads=False)] * ready
        work += [Work(scale * read, scale * prepare, execute_ms) for read, prepare in loads]
        assert schedule(range(len(work)), work, way)[-1].execute.end_ms == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize(
    ("bitwidths", "sizes", "reads"),
    [((8, 8, 8), (4, 4, 4), 2), ((8, 8, 8), (4, 4, 2), 1), ((8, 2, 8), (1, 1, 1), 3), ((2, 2), (30, 30), 2)],
)
def test_reads_join_neighbours_of_one_bitwidth(bitwidths: tuple[int, ...], sizes: tuple[int, ...], reads: int) -> None:
    assert count_reads(bitwidths, sizes, read_bytes=10) == reads


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.data())
def test_loads_of_many_plans_are_those_of_each(seed: int, data: st.DataObject) -> None:
    facts = random_facts(seed, 3, 4, (2, 4, 8), read_bytes=data.draw(st.sampled_from((300_000, 1_000_000))))
    options = options_of(facts, (2, 4, 8))
    chosen = np.array(data.draw(st.lists(st.integers(0, 2), min_size=24, max_size=24))).reshape(2, 3, 4)
    loads = loads_of(facts, options, np.arange(3), chosen)
    for row in range(2):
        layers = [LayerPlan(k, tuple(options.bitwidths[chosen[row, k]].tolist()), Residency.STREAMED) for k in range(3)]
        spans = forecast(facts, Plan(tuple(layers), 1, 1), 64).layers
        for k, layer in enumerate(spans):
            assert layer.read and layer.prepare
            assert layer.read.end_ms - layer.read.start_ms == pytest.approx(loads.read_ms[row, k])
            assert layer.prepare.end_ms - layer.prepare.start_ms == pytest.approx(loads.prepare_ms[row, k])


def _plan(residency: list[Residency | None], schedule: Schedule = Schedule.PIPELINED) -> Plan:
    return Plan(tuple(LayerPlan(k, (8, 8), kept) for k, kept in enumerate(residency)), 1, 2, schedule)


def test_what_is_kept_need_not_be_loaded() -> None:
    facts = random_facts(0, 3, 2, (2, 8))
    streamed = forecast(facts, _plan([Residency.STREAMED] * 3), 64)
    resident, preloaded = (forecast(facts, _plan([kept] * 3), 64) for kept in (Residency.RESIDENT, Residency.PRELOADED))
    assert resident.total_ms == pytest.approx(3 * 2.0 + 1.0)
    assert all(layer.agent is None for layer in resident.layers)
    assert resident.total_ms < preloaded.total_ms < streamed.total_ms
    assert preloaded.preload_ms == 0.0


def test_a_first_run_loads_what_will_be_kept() -> None:
    facts = random_facts(0, 3, 2, (2, 8))
    streamed = forecast(facts, _plan([Residency.STREAMED] * 3), 64)
    assert forecast(facts, _plan([Residency.RESIDENT] * 3), 64, present=frozenset()).total_ms == streamed.total_ms
    first = forecast(facts, _plan([Residency.PRELOADED] * 3), 64, present=frozenset({0}))
    assert first.preload_ms > 0.0
    assert first.layers[0].read and first.layers[0].read.start_ms == first.preload_ms


def test_other_schedules_take_longer() -> None:
    facts = random_facts(0, 3, 2, (2, 8))
    times = [
        forecast(facts, _plan([Residency.STREAMED] * 3, kind), 64).total_ms
        for kind in (Schedule.FREE_LAST, Schedule.LOAD_FIRST)
    ]
    assert times[0] < times[1]


def test_texts_share_the_loads() -> None:
    facts = random_facts(0, 3, 2, (2, 8))
    one, four = (forecast(facts, _plan([Residency.RESIDENT] * 3), 64, texts) for texts in (1, 4))
    assert four.total_ms - four.pass_ms == pytest.approx(4 * (one.total_ms - one.pass_ms))
