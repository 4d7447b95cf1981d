"""What a plan is predicted to cost: residency against the budget, the ledger, and the estimate against the kernel."""

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from multiprocessing import get_context
from threading import Thread

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from device_agent.litert import Runtime
from device_agent.memory import (
    MIB,
    Footprint,
    LayerFootprint,
    Ledger,
    check_budget,
    fit_residency,
    layer_footprint,
)
from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.process_memory import process_memory
from shard_store.errors import BudgetError
from shard_store.geometry import Activation, Geometry
from shard_store.template import TemplateKind
from tests.layers import filled_model, layer_payloads, random_layer, run_once, template_of

BERT_BASE = Geometry(1, 768, 12, 3072, 12, Activation.GELU, 1e-12)


@st.composite
def cases(draw: st.DrawFn, undecided: bool = False) -> tuple[Plan, Footprint]:
    count = draw(st.integers(1, 6))
    sizes = st.integers(0, 50)
    residency = st.none() if undecided else st.none() | st.sampled_from(Residency)
    plan = Plan(
        tuple(LayerPlan(index, (8,), draw(residency)) for index in range(count)),
        draw(st.integers(1, 4)), draw(st.integers(1, 5)),
    )  # fmt: skip
    layers = tuple(LayerFootprint(draw(sizes), draw(sizes)) for _ in range(count))
    stored = tuple(draw(sizes) for _ in range(count))
    return plan, Footprint(draw(sizes), draw(sizes), draw(sizes), layers, stored)


def resident(plan: Plan) -> list[int]:
    return [index for index, layer in enumerate(plan.layers) if layer.residency is Residency.RESIDENT]


def fitted(plan: Plan, footprint: Footprint, budget: int) -> Plan | None:
    try:
        return fit_residency(plan, footprint, budget)
    except BudgetError:
        return None


def with_one_more(plan: Plan, wanted: Plan) -> Plan | None:
    """The lowest layer that `wanted` leaves open and `plan` streams, made resident."""
    open_layers = [index for index, layer in enumerate(wanted.layers) if layer.residency is None]
    choice = [layer.residency for layer in plan.layers]
    for index in open_layers:
        if choice[index] is Residency.STREAMED:
            choice[index] = Residency.RESIDENT
            return plan.with_residency(choice)
    return None


@given(cases(), st.integers(0, 500))
def test_a_fitted_plan_holds_the_budget_and_makes_the_most_of_it(case: tuple[Plan, Footprint], budget: int) -> None:
    wanted, footprint = case
    plan = fitted(wanted, footprint, budget)
    assume(plan is not None)
    assert plan is not None
    assert footprint.peak_bytes(plan) <= budget
    for asked, given_ in zip(wanted.layers, plan.layers, strict=True):
        assert given_.residency is (asked.residency or given_.residency) is not None
    more = with_one_more(plan, wanted)
    assert more is None or footprint.peak_bytes(more) > budget
    chosen = [plan.layers[index].residency for index, layer in enumerate(wanted.layers) if layer.residency is None]
    assert chosen == sorted(chosen, key=lambda residency: residency is not Residency.RESIDENT), "bottom first"


@given(cases(), st.integers(0, 500))
def test_fewer_layers_are_in_flight_only_where_more_do_not_fit(case: tuple[Plan, Footprint], budget: int) -> None:
    wanted, footprint = case
    plan = fitted(wanted, footprint, budget)
    streamed = wanted.with_residency([layer.residency or Residency.STREAMED for layer in wanted.layers])
    if plan is None:
        alone = replace(streamed, layers_in_flight=1, loading_agents=1)
        limit = alone if wanted.layers_in_flight > 1 else streamed
        assert footprint.peak_bytes(limit) > budget
    elif plan.layers_in_flight < wanted.layers_in_flight:
        in_flight = plan.layers_in_flight + 1
        more = replace(streamed, layers_in_flight=in_flight, loading_agents=min(wanted.loading_agents, in_flight))
        assert plan.loading_agents <= plan.layers_in_flight
        if in_flight == wanted.layers_in_flight:
            more = streamed
        assert footprint.peak_bytes(more) > budget
    else:
        assert plan.loading_agents == wanted.loading_agents


@given(cases(), st.integers(0, 500), st.integers(0, 200))
def test_more_budget_never_means_less(case: tuple[Plan, Footprint], budget: int, more: int) -> None:
    """Layers in flight come first, then resident ones: with as many in flight, no fewer are resident."""
    low, high = (fitted(*case, budget_bytes) for budget_bytes in (budget, budget + more))
    assume(low is not None)
    assert low is not None and high is not None
    assert high.layers_in_flight >= low.layers_in_flight
    if high.layers_in_flight == low.layers_in_flight:
        assert set(resident(high)) >= set(resident(low))


@given(cases(undecided=True))
def test_what_fits_as_a_whole_stays_as_a_whole(case: tuple[Plan, Footprint]) -> None:
    plan, footprint = case
    whole = plan.with_residency([Residency.RESIDENT] * len(plan.layers))
    assert fit_residency(plan, footprint, footprint.peak_bytes(whole)) == whole


def test_the_peak_counts_all_that_is_held() -> None:
    layers = tuple(LayerFootprint(ready, loading) for ready, loading in ((10, 1), (20, 2), (30, 3), (40, 4)))
    footprint = Footprint(1000, 500, 100, layers, (5, 6, 7, 8))
    plan = Plan(tuple(LayerPlan(index, (8,)) for index in range(4)), loading_agents=2, layers_in_flight=2)
    choice = [Residency.RESIDENT, Residency.PRELOADED, Residency.STREAMED, Residency.STREAMED]
    # resident 10, preloaded 6, the largest two of the others 30 + 40, the largest two that are loaded 3 + 4
    assert footprint.peak_bytes(plan.with_residency(choice)) == 1000 + 500 + 2 * 100 + 10 + 6 + 70 + 7


def test_layers_that_are_there_need_not_be_loaded() -> None:
    layers = (LayerFootprint(10, 5), LayerFootprint(20, 9), LayerFootprint(30, 3))
    footprint = Footprint(1000, 500, 100, layers, (5, 6, 7))
    residency = (Residency.RESIDENT, Residency.RESIDENT, Residency.STREAMED)
    plan = Plan(tuple(LayerPlan(index, (8,), choice) for index, choice in enumerate(residency)), 1, 2)
    assert footprint.peak_bytes(plan) == 1600 + 60 + 9
    assert footprint.peak_bytes(plan, {1}) == 1600 + 60 + 5
    assert footprint.peak_bytes(plan, {0, 1, 2}) == 1600 + 60 + 3, "what is streamed is loaded in every pass"


def test_too_small_a_budget_is_told_with_the_numbers() -> None:
    footprint = Footprint(2 * MIB, 0, MIB, (LayerFootprint(3 * MIB, MIB),), (MIB,))
    plan = Plan((LayerPlan(0, (8,)),))
    with pytest.raises(BudgetError, match=r"budget 6\.5 MiB is too small: this plan needs 7\.0 MiB \(3\.0 fixed"):
        fit_residency(plan, footprint, 6 * MIB + MIB // 2)
    check_budget(plan, footprint, 7 * MIB)


def test_the_ledger_keeps_the_peak() -> None:
    ledger = Ledger()
    ledger.add(5)
    with pytest.raises(ValueError, match="inside"), ledger.holding(10):
        assert ledger.held_bytes == 15
        raise ValueError("inside")
    assert (ledger.held_bytes, ledger.peak_bytes) == (5, 15)
    ledger.restart()
    assert (ledger.held_bytes, ledger.peak_bytes) == (5, 5)


def test_the_ledger_is_shared_by_threads() -> None:
    ledger = Ledger()

    def work() -> None:
        for _ in range(2000):
            with ledger.holding(3):
                ledger.add(1)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.held_bytes == 8000
    assert 8003 <= ledger.peak_bytes <= 8012


needs_proc = pytest.mark.skipif(process_memory().resident_bytes == 0, reason="this system has no /proc")


def in_a_fresh_process(measure: Callable[..., float], *arguments: object) -> float:
    """What earlier tests have freed would hide what a layer takes; a new process has nothing to reuse."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(measure, *arguments).result()


def settled_bytes() -> int:
    """Anonymous memory once garbage is collected and given back."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return process_memory().anonymous_bytes


def growth_by_ready_layers(kind: TemplateKind, sequence: int) -> float:
    """Bytes per layer, of several at once: memory that an earlier layer has freed hides what one alone takes."""
    template = template_of(BERT_BASE, BERT_BASE.slices, kind, sequence)
    payloads = layer_payloads(random_layer(BERT_BASE), BERT_BASE, 8 if kind is TemplateKind.INT8 else 32)
    runtime, layers = Runtime(), 4
    with ExitStack() as stack:

        def prepare_and_run() -> None:
            model = stack.enter_context(closing(filled_model(template, BERT_BASE, payloads)))
            run_once(runtime, stack.enter_context(closing(model.compile(runtime))), template, BERT_BASE)

        prepare_and_run()
        before = settled_bytes()
        for _ in range(layers):
            prepare_and_run()
        return (settled_bytes() - before) / layers


def growth_by_loading(kind: TemplateKind) -> float:
    template = template_of(BERT_BASE, BERT_BASE.slices, kind, 64)
    payloads = layer_payloads(random_layer(BERT_BASE), BERT_BASE, 8 if kind is TemplateKind.INT8 else 32)
    with ExitStack() as stack:
        stack.enter_context(closing(filled_model(template, BERT_BASE, payloads)))
        before = settled_bytes()
        for _ in range(2):
            stack.enter_context(closing(filled_model(template, BERT_BASE, payloads)))
        return (settled_bytes() - before) / 2


def growth_by_cycles(cycles: int) -> float:
    geometry = Geometry(1, 256, 4, 1024, 4, Activation.GELU, 1e-12)
    template = template_of(geometry, 4, TemplateKind.INT8, 16)
    payloads, runtime = layer_payloads(random_layer(geometry), geometry, 8), Runtime()

    def cycle() -> None:
        with closing(filled_model(template, geometry, payloads)) as model, closing(model.compile(runtime)) as compiled:
            run_once(runtime, compiled, template, geometry)

    for _ in range(20):
        cycle()
    before = settled_bytes()
    for _ in range(cycles):
        cycle()
    return settled_bytes() - before


@needs_proc
@pytest.mark.parametrize("kind", TemplateKind)
@pytest.mark.parametrize("sequence", [64, 128])
def test_a_ready_layer_takes_what_was_predicted(kind: TemplateKind, sequence: int) -> None:
    measured = in_a_fresh_process(growth_by_ready_layers, kind, sequence)
    predicted = layer_footprint(template_of(BERT_BASE, BERT_BASE.slices, kind, sequence), BERT_BASE).ready_bytes
    assert measured <= predicted <= 1.4 * measured


@needs_proc
@pytest.mark.parametrize("kind", TemplateKind)
def test_loading_takes_what_was_predicted(kind: TemplateKind) -> None:
    measured = in_a_fresh_process(growth_by_loading, kind)
    predicted = layer_footprint(template_of(BERT_BASE, BERT_BASE.slices, kind, 64), BERT_BASE).loading_bytes
    # the constants inside the flatbuffer are counted among the ready bytes
    assert 0.9 * predicted < measured < predicted + MIB


@needs_proc
def test_freed_layers_leave_nothing_behind() -> None:
    # a layer takes 1 MiB: 200 MiB if all were lost
    assert in_a_fresh_process(growth_by_cycles, 200) < 4 * MIB
