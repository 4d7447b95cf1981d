"""Plans: what is valid, what a file may say, and that a plan comes back from its file as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.plan import (
    MAX_LOADING_AGENTS,
    MAX_PLAN_BYTES,
    LayerPlan,
    Plan,
    Residency,
    Schedule,
    default_bitwidth,
    parse_plan,
    plan_to_json,
    read_plan,
    uniform_plan,
)
from shard_store.errors import PlanError
from shard_store.geometry import EXACT_BITWIDTH, LATTICE_BITWIDTHS, ShardKey
from shard_store.manifest import Manifest
from shard_store.template import TemplateKind
from tests.stores import write_store


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """2 layers of 4 slices at 2, 4 and 32 bits."""
    return write_store(tmp_path_factory.mktemp("plans") / "store", (2, 4, 32))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    slices = draw(st.integers(1, 5))
    mixed = st.lists(st.sampled_from(LATTICE_BITWIDTHS), min_size=slices, max_size=slices).map(tuple)
    bitwidths = mixed | st.just((EXACT_BITWIDTH,) * slices)
    residency = st.none() | st.sampled_from(Residency)
    layers = sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=6)))
    return Plan(
        tuple(LayerPlan(layer, draw(bitwidths), draw(residency)) for layer in layers),
        draw(st.integers(1, MAX_LOADING_AGENTS)), draw(st.integers(1, 40)), draw(st.sampled_from(Schedule)),
    )  # fmt: skip


def document(**changes: object) -> dict[str, Any]:
    layers = [{"layer": 0, "bitwidths": [2, 4]}, {"layer": 1, "bitwidths": [32, 32], "residency": "resident"}]
    return {"version": 1, "layers": layers} | changes


def layer(**changes: object) -> dict[str, Any]:
    return document(layers=[{"layer": 0, "bitwidths": [4]} | changes])


@given(plans())
def test_a_plan_comes_back_from_its_json(plan: Plan) -> None:
    assert parse_plan(json.loads(plan_to_json(plan))) == plan


def test_a_file_may_leave_out_what_has_a_default() -> None:
    expected = Plan((LayerPlan(0, (2, 4)), LayerPlan(1, (32, 32), Residency.RESIDENT)))
    assert parse_plan(document()) == expected
    assert (expected.loading_agents, expected.layers_in_flight) == (1, 2)
    assert expected.schedule is Schedule.PIPELINED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "plan must be an object"),
        (document(version=2), "version 2, this agent knows 1"),
        (document(version=True), "version is True, must be a whole number"),
        (document(version=...), "version is None, must be a whole number"),
        (document(speed=3), "unknown key 'speed' in plan; known are layers, "),
        (document(layers={}), "'layers' must be a list"),
        (document(layers=[]), "no layers; name at least one"),
        (document(layers=[4]), r"layers\[0\] must be an object"),
        (document(loading_agents=0), "0 loading agents, must be 1 to 16"),
        (document(loading_agents=17), "17 loading agents, must be 1 to 16"),
        (document(loading_agents=1.0), "loading_agents is 1.0, must be a whole number"),
        (document(layers_in_flight=0), "0 layers in flight, must be at least 1"),
        (document(layers_in_flight=None), "layers_in_flight is None, must be a whole number"),
        (document(schedule="later"), "schedule is 'later', must be one of pipelined, free_last, load_first"),
        (document(schedule=None), "schedule is None, must be one of"),
        (document(schedule=[1]), r"schedule is \[1\], must be one of"),
        (layer(layer="0"), r"layers\[0\].layer is '0', must be a whole number"),
        (layer(layer=False), r"layers\[0\].layer is False, must be a whole number"),
        (layer(bits=4), r"unknown key 'bits' in layers\[0\]; known are bitwidths, layer, residency"),
        (layer(bitwidths=4), r"layers\[0\].bitwidths must be a list of numbers"),
        (layer(bitwidths=[4, None]), r"layers\[0\].bitwidths is None, must be a whole number"),
        (layer(bitwidths=[]), "every layer must list one bitwidth for each of the same number of slices"),
        (layer(bitwidths=[4, 7]), "layer 0 asks for 7 bits, not 2, 3, 4, 5, 6, 8, 32"),
        (layer(bitwidths=[4, 32]), "layer 0 mixes 32 bits with others"),
        (layer(residency="flash"), r"layers\[0\].residency is 'flash', must be one of streamed, preloaded, resident"),
        (layer(residency=[1]), r"layers\[0\].residency is \[1\], must be one of"),
    ],
)
def test_what_is_wrong_is_one_line(content: object, message: str) -> None:
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if value is not ...}
    with pytest.raises(PlanError, match=f"^plan: {message}") as caught:
        parse_plan(content)
    assert "\n" not in str(caught.value)


@given(plans())
def test_how_many_layers_are_in_flight(plan: Plan) -> None:
    passing = sum(layer.residency is not Residency.RESIDENT for layer in plan.layers)
    assert plan.passing == passing
    bounded = plan.schedule is Schedule.PIPELINED
    assert plan.most_in_flight == (min(plan.layers_in_flight, passing) if bounded else passing)


@pytest.mark.parametrize("layers", [(1, 0), (0, 0)])
def test_layers_ascend(layers: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="must ascend without repetition"):
        Plan(tuple(LayerPlan(index, (2,)) for index in layers))


def test_layers_are_of_one_width() -> None:
    with pytest.raises(PlanError, match="the same number of slices"):
        Plan((LayerPlan(0, (2,)), LayerPlan(1, (2, 2))))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(Residency),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
nearly_layers = st.fixed_dictionaries(
    {}, optional={"layer": json_values, "bitwidths": json_values | st.just([4]), "residency": json_values}
)
nearly_plans = st.fixed_dictionaries(
    {"version": st.just(1) | json_values},
    optional={
        "layers": st.lists(nearly_layers, max_size=3) | json_values,
        "loading_agents": json_values,
        "layers_in_flight": json_values,
        "schedule": json_values | st.sampled_from(Schedule),
    },
)


@given(nearly_plans | json_values)
def test_any_json_is_a_plan_or_a_plan_error(content: object) -> None:
    try:
        plan = parse_plan(content)
    except PlanError as error:
        assert str(error).startswith("plan: ")
    else:
        assert parse_plan(json.loads(plan_to_json(plan))) == plan


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"1" * 10_000, "cannot be read|must be an object"),  # Pythons differ in the longest number
        (b" " * (MAX_PLAN_BYTES + 1), f"larger than {MAX_PLAN_BYTES} bytes"),
    ],
)
def test_files_that_are_no_plans(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=message) as caught:
        read_plan(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)


def test_files(tmp_path: Path, manifest: Manifest) -> None:
    plan = uniform_plan(manifest, 4)
    (tmp_path / "plan.json").write_text(plan_to_json(plan))
    assert read_plan(tmp_path / "plan.json") == plan
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PlanError, match=f"^plan {path}: cannot be read"):
            read_plan(path)


def test_layers_name_their_shards_and_their_template() -> None:
    lattice = LayerPlan(3, (2, 8))
    assert lattice.shards() == (ShardKey(3, 0, 2), ShardKey(3, 1, 8))
    assert lattice.kind is TemplateKind.INT8
    assert LayerPlan(3, (32,)).kind is TemplateKind.FLOAT32


def test_uniform_plans(manifest: Manifest) -> None:
    whole = uniform_plan(manifest, 4, loading_agents=3, layers_in_flight=5)
    assert whole == Plan((LayerPlan(0, (4,) * 4), LayerPlan(1, (4,) * 4)), 3, 5)
    assert uniform_plan(manifest, 32, layers=1, slices=2) == Plan((LayerPlan(0, (32, 32)),))
    assert Plan((LayerPlan(0, (4, 2)), LayerPlan(1, (32, 32)))).bitwidths == (2, 4, 32)


@pytest.mark.parametrize(
    ("bits", "layers", "slices", "message"),
    [
        (4, 0, None, "0 layers asked, the store has 1 to 2"),
        (4, 3, None, "3 layers asked, the store has 1 to 2"),
        (4, None, 0, "0 slices asked, the store has 1 to 4"),
        (4, None, 5, "5 slices asked, the store has 1 to 4"),
        (8, None, None, "the store has no 8-bit shards, only 2, 4, 32"),
        (7, None, None, "layer 0 asks for 7 bits"),
    ],
)
def test_uniform_plans_that_the_store_cannot_run(
    bits: int, layers: int | None, slices: int | None, message: str, manifest: Manifest
) -> None:
    with pytest.raises(PlanError, match=message):
        uniform_plan(manifest, bits, layers, slices)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan((LayerPlan(2, (4,)),)), "layer 2 asked, the store has layers 0 to 1"),
        (Plan((LayerPlan(-1, (4,)),)), "layer -1 asked"),
        (Plan((LayerPlan(0, (4,) * 5),)), "5 slices asked, the store has 4"),
        (Plan((LayerPlan(0, (3, 4)),)), "no 3-bit shards, only 2, 4, 32"),
    ],
)
def test_plans_are_checked_against_the_store(plan: Plan, message: str, manifest: Manifest) -> None:
    with pytest.raises(PlanError, match=message):
        plan.check(manifest)


def test_the_default_bitwidth_is_the_highest_of_the_lattice(tmp_path: Path, manifest: Manifest) -> None:
    assert default_bitwidth(manifest) == 4
    assert default_bitwidth(write_store(tmp_path / "exact", (32,))) == 32
