"""Exact models under a cap: every cap from one layer up answers as the resident model does, and none is exceeded."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.random_model import EncoderShape, sentence, write_random_bert
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.exact_plan import LayerTimes, plan_exact
from device_agent.exact_trial import Trial
from device_agent.goal import NO_GOAL
from device_agent.plan import Plan, Residency, Schedule
from host.exact.cgroup import Cgroup
from shard_store.errors import BudgetError, DeviceError
from tests.packaging import package_quietly

SEQUENCE = 16
REQUESTS = 1000
CAPS = 9  # walked from one layer up to all
LAYERS = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six layers of a hidden size of 256, 0.8 MB each at 8 bits."""
    folder = tmp_path_factory.mktemp("exact")
    write_random_bert(folder / "model", EncoderShape(LAYERS, 256, 4, 1024, 64, 64))
    return package_quietly(folder / "model", folder / "store", sequences=(SEQUENCE,), bitwidths=(8, 32), slices=2)


def streamed(engine: Engine, bits: int, agents: int = 1, in_flight: int = 1) -> Plan:
    plan = engine.uniform_plan(bits)
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    return replace(plan, loading_agents=agents, layers_in_flight=in_flight)


def answer(engine: Engine, plan: Plan) -> bytes:
    return engine.answer([sentence(SEQUENCE)], plan).outputs[0].tobytes()


@pytest.fixture(scope="module", params=[8, 32])
def case(request: pytest.FixtureRequest, store: Path) -> Iterator[tuple[Path, int, bytes, range]]:
    """Store, bitwidth, the resident model's answer, and caps from what one layer at a time needs to what all need."""
    with Engine(store, EngineOptions(budget_bytes=1 << 30)) as engine:
        plan = engine.uniform_plan(request.param)
        resident = plan.with_residency([Residency.RESIDENT] * LAYERS)
        expected = answer(engine, resident)
        assert answer(engine, resident) == expected
        alone = streamed(engine, request.param)
        least, whole = (engine.footprint(p, SEQUENCE, 1).peak_bytes(p) for p in (alone, replace(resident)))
    yield store, request.param, expected, range(least, whole + whole // 4, (whole - least) // CAPS)


def test_every_cap_from_one_layer_up_answers_as_the_resident_model(case: tuple[Path, int, bytes, range]) -> None:
    store, bits, expected, caps = case
    for cap in caps:
        with Engine(store, EngineOptions(budget_bytes=cap)) as engine:
            for schedule in Schedule:
                for agents in (1, 2, 4):
                    plan = replace(streamed(engine, bits, agents, in_flight=agents + 1), schedule=schedule)
                    with suppress(BudgetError):
                        assert answer(engine, plan) == expected, (cap, plan)
                        assert engine.ledger.peak_bytes <= cap
                        continue
                    assert engine.footprint(plan, SEQUENCE, 1).peak_bytes(plan) > cap
                    assert schedule is not Schedule.PIPELINED, "one layer at a time always fits"


def test_a_byte_less_than_one_layer_needs_is_refused(case: tuple[Path, int, bytes, range]) -> None:
    store, bits, _, caps = case
    options = EngineOptions(budget_bytes=caps.start - 1)
    with Engine(store, options) as engine, pytest.raises(BudgetError, match="too small"):
        answer(engine, streamed(engine, bits))


@pytest.mark.parametrize("agents", [None, 1, 3])
def test_planned_agents_answer_as_the_resident_model(case: tuple[Path, int, bytes, range], agents: int | None) -> None:
    store, bits, expected, caps = case
    times = [LayerTimes(2.0, 1.0, 1.0)] * LAYERS
    for cap in caps[2:]:
        with Engine(store, EngineOptions(budget_bytes=cap)) as engine:
            plan = streamed(engine, bits)
            with suppress(BudgetError):
                found = plan_exact(plan, engine.footprint(plan, SEQUENCE, 1), cap, times, agents=agents)
                for _ in range(2):
                    assert answer(engine, found.plan) == expected
                    assert engine.ledger.peak_bytes <= found.peak_bytes <= cap


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A control group, where they can be had."""
    try:
        group = Cgroup()
    except DeviceError as error:
        pytest.skip(str(error))
    with group:
        yield group


def test_a_thousand_requests_live_in_a_control_group_of_the_cap(group: Cgroup, store: Path) -> None:
    with Engine(store, EngineOptions(budget_bytes=1 << 30)) as engine:
        plan = streamed(engine, 8, agents=2, in_flight=2)
        cap = engine.footprint(plan, SEQUENCE, 1).peak_bytes(plan)
    trial = Trial(str(store), 8, SEQUENCE, Schedule.PIPELINED, cap, agents=2, requests=REQUESTS, direct=False)
    command = group.command([sys.executable, "-m", "device_agent.exact_trial"])
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps(asdict(trial)) + "\n")
        child.stdin.flush()
        assert child.stdout.readline()
        group.drop_cache()
        limit = group.held_bytes() + cap
        group.limit_memory(limit)
        child.stdin.write("\n")
        child.stdin.flush()
        line = child.stdout.readline()
        child.wait()
    assert (child.returncode, group.kills()) == (0, 0)
    result = json.loads(line)
    assert len(result["all_ms"]) == REQUESTS
    assert result["accounted_bytes"] <= cap
    assert group.peak_bytes() <= limit


def test_the_engine_plans_agents_by_the_costs_of_the_device(store: Path, tmp_path: Path) -> None:
    with Engine(store, EngineOptions(budget_bytes=1 << 30)) as engine:
        plan = streamed(engine, 8, in_flight=2)
        cap = engine.footprint(plan, SEQUENCE, 1).peak_bytes(plan)
        expected = answer(engine, plan)
    costs = tmp_path / "costs.json"
    for _ in range(2):  # measured, then read
        with Engine(store, EngineOptions(budget_bytes=cap, plan_agents=True, costs_path=costs)) as engine:
            engine.ready(None, NO_GOAL)
            found = [engine.answer([sentence(SEQUENCE)]) for _ in range(3)]
            assert {item.outputs[0].tobytes() for item in found} == {expected}
            assert all(item.report.model_peak_bytes <= cap for item in found)
            assert all(layer.residency is not None for layer in found[-1].report.plans[0].layers)
    with Engine(store, EngineOptions(budget_bytes=1 << 30, plan_agents=True, costs_path=costs)) as engine:
        answer(engine, engine.uniform_plan())
        assert engine.answer([sentence(SEQUENCE)]).report.resident_layers == LAYERS
