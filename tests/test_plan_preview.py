"""`sti plan`: the dry run, its table, picture, trace and plan file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.costing.measure import model_digest
from device_agent.costs import DeviceCosts, PrepareCost
from device_agent.costs_file import write_costs
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.plan import read_plan
from shard_store.reader import Store
from shard_store.template import TemplateKind
from tests.cli_runs import Sti
from tests.costs import small_costs
from tests.profiles import profiled_copy


@pytest.fixture(scope="module")
def store(golden_store: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profiled_copy(golden_store("bert-sequence"), tmp_path_factory.mktemp("plan") / "store")


@pytest.fixture(scope="module")
def costs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Store.open(store) as opened:
        manifest = opened.manifest
    row = tuple(float(width) for width in range(1, manifest.geometry.slices + 1))
    execute = dict.fromkeys(TemplateKind, dict.fromkeys(manifest.description.sequences, row))
    prepare = dict.fromkeys(TemplateKind, PrepareCost(0.5, dict.fromkeys(manifest.bitwidths, 0.25)))
    made: DeviceCosts = replace(small_costs(), model=model_digest(manifest), execute=execute, prepare=prepare)
    path = tmp_path_factory.mktemp("costs") / "costs.json"
    write_costs(path, made)
    return path


def test_a_dry_run_shows_layers_times_and_memory(sti: Sti, store: Path, costs: Path) -> None:
    finished = sti("plan", store, "--device-costs", costs, "--target-ms", 12, "--memory-mb", 16)
    assert finished.code == 0, finished.err
    for text in ("resident", "latency, ms", "peak memory, MiB", "loss, nats", "slices, sequence 20"):
        assert text in finished.out


def test_less_time_is_planned_with_less(sti: Sti, store: Path, costs: Path) -> None:
    wide, narrow = (
        sti("plan", store, "--device-costs", costs, "--target-ms", target, "--memory-mb", 16, "--json").json
        for target in (1000, 5)
    )
    assert wide["met"] and narrow["met"]
    assert narrow["predicted_ms"] <= 5 < wide["predicted_ms"]
    assert narrow["predicted_loss"] > wide["predicted_loss"]
    assert narrow["layers"][-1]["ends_ms"] <= narrow["predicted_ms"]


def test_a_target_that_cannot_be_met_is_told_with_the_nearest(sti: Sti, store: Path, costs: Path) -> None:
    document = sti("plan", store, "--device-costs", costs, "--target-ms", 0.1, "--memory-mb", 16, "--json").json
    assert not document["met"]
    assert "cannot be met" in document["reason"]
    finished = sti("plan", store, "--device-costs", costs, "--memory-mb", 0.01)
    assert finished.code == 1
    assert "memory budget" in finished.err and "needs" in finished.err


def test_picture_trace_and_plan_are_written(sti: Sti, store: Path, costs: Path, tmp_path: Path) -> None:
    picture, trace, plan = (tmp_path / name for name in ("plan.png", "trace.json", "plan.json"))
    finished = sti(
        "plan", store, "--device-costs", costs, "--memory-mb", 16, "--first", "--tokens", 10,
        "--picture", picture, "--trace", trace, "--out", plan,
    )  # fmt: skip
    assert finished.code == 0, finished.err
    assert picture.read_bytes().startswith(b"\x89PNG")
    events = json.loads(trace.read_text())["traceEvents"]
    assert {event["cat"] for event in events if event["ph"] == "X"} == {"read", "prepare", "execute"}
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} >= {"inference agent", "loading agent 1"}
    with Engine(store, EngineOptions(budget_bytes=16 << 20)) as engine:
        assert engine.answer(["a text"], read_plan(plan)).report.sequences == (16,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokens", "99"), "99 tokens asked, the store runs 1 to 20"),
        (("--picture", "/nowhere/x.png"), "/nowhere/x.png: the picture cannot be written"),
        (("--trace", "/nowhere/x.json"), "/nowhere/x.json: the trace cannot be written"),
    ],
)
def test_bad_input_is_one_line(sti: Sti, store: Path, costs: Path, arguments: tuple[str, str], message: str) -> None:
    finished = sti("plan", store, "--device-costs", costs, "--memory-mb", 16, *arguments)
    assert finished.code == 1
    assert message in finished.err and len(finished.err.splitlines()) == 1


def test_a_store_without_profile_and_missing_costs(
    sti: Sti, store: Path, costs: Path, golden_store: Callable[[str], Path]
) -> None:
    finished = sti("plan", golden_store("bert-sequence"), "--device-costs", costs, "--memory-mb", 16)
    assert "no importance profile" in finished.err
    finished = sti("plan", store, "--device-costs", "/nowhere.json", "--memory-mb", 16)
    assert "device costs /nowhere.json: cannot be read" in finished.err
