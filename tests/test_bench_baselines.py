"""Plans of the baselines, on facts that were not measured."""

from itertools import pairwise

import pytest

from device_agent.plan import Residency, Schedule
from host.bench.baselines import plan_baseline, predicted_ms, submodel, submodels
from host.bench.facts import default_memory_bytes, most_bytes, whole_model_bytes
from host.bench.methods import METHODS, STI, Method, MethodKind, methods_for
from host.bench.results import conditions
from host.bench.settings import default_targets
from tests.planning_facts import random_facts

SEQUENCE = 64
FACTS = random_facts(1, layers=4, slices=4, bitwidths=(2, 6, 8, 32))
BASELINES = [method for method in METHODS if method != STI]


def test_methods_have_the_names_of_the_paper() -> None:
    assert [method.name for method in METHODS] == [
        "STI", "Load&Exec", "StdPL-32", "StdPL-8", "StdPL-6", "StdPL-2",
        "PreloadModel-32", "PreloadModel-8", "PreloadModel-6",
    ]  # fmt: skip
    assert [method.name for method in methods_for((8,))] == ["STI", "StdPL-8", "PreloadModel-8"]


@pytest.mark.parametrize("method", BASELINES, ids=lambda method: method.name)
def test_a_baseline_takes_the_best_submodel_that_is_in_time(method: Method) -> None:
    every = [predicted_ms(FACTS, plan, SEQUENCE) for plan in submodels(FACTS, method)]
    assert len(every) == 16
    for target in sorted(every):
        found = plan_baseline(FACTS, method, target, SEQUENCE)
        assert found.fits
        assert found.predicted_ms <= target
        assert found.plan.bitwidths == (method.bits,)
    hopeless = plan_baseline(FACTS, method, min(every) * 0.99, SEQUENCE)
    assert (hopeless.fits, hopeless.predicted_ms) == (False, min(every))


@pytest.mark.parametrize("method", BASELINES, ids=lambda method: method.name)
def test_more_time_never_lowers_predicted_quality(method: Method) -> None:
    found = [plan_baseline(FACTS, method, target, SEQUENCE) for target in range(10, 2000, 40)]
    assert all(late.predicted_loss <= early.predicted_loss for early, late in pairwise(found) if early.fits)


def test_methods_differ_in_residency_and_schedule() -> None:
    plans = {kind: submodel(FACTS, Method(kind, 8), 3, 2) for kind in MethodKind}
    assert {layer.residency for layer in plans[MethodKind.PRELOAD_MODEL].layers} == {Residency.RESIDENT}
    assert {layer.residency for layer in plans[MethodKind.STD_PIPELINE].layers} == {Residency.STREAMED}
    assert plans[MethodKind.LOAD_EXEC].schedule is Schedule.LOAD_FIRST
    assert plans[MethodKind.STD_PIPELINE].schedule is Schedule.PIPELINED


def test_loading_first_is_slower_than_overlapping() -> None:
    first, beside = (
        predicted_ms(FACTS, submodel(FACTS, Method(kind, 8), 4, 4), SEQUENCE)
        for kind in (MethodKind.LOAD_EXEC, MethodKind.STD_PIPELINE)
    )
    assert first > beside


def test_targets_reach_from_one_layer_to_the_whole_model() -> None:
    targets = default_targets(FACTS, SEQUENCE, 5)
    whole = predicted_ms(FACTS, submodel(FACTS, Method(MethodKind.STD_PIPELINE, 8), 4, 4), SEQUENCE)
    one = predicted_ms(FACTS, submodel(FACTS, Method(MethodKind.STD_PIPELINE, 2), 1, 4), SEQUENCE)
    assert len(targets) == 5
    assert one < targets[0] < 1.3 * one
    assert whole < targets[-1] < 1.3 * whole
    assert list(targets) == sorted(targets)


def test_memory_of_the_whole_model_and_what_sti_gets() -> None:
    whole = whole_model_bytes(FACTS, SEQUENCE)
    assert most_bytes(FACTS, SEQUENCE) >= whole
    assert whole / 10 <= default_memory_bytes(FACTS, SEQUENCE) < whole


def test_io_binds_where_memory_would_help() -> None:
    slow = conditions(FACTS, default_targets(FACTS, SEQUENCE, 5)[1], SEQUENCE)
    assert slow.io_binds
    assert slow.io_binds_8
    ample = conditions(FACTS, 1e6, SEQUENCE)
    assert (ample.io_binds, ample.io_binds_8, ample.whole_computes) == (False, False, True)
