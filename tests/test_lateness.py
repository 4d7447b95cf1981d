import pytest

from device_agent.lateness import LEAST_MARGIN, RUNS, Lateness


def after(*late: float) -> Lateness:
    lateness = Lateness()
    for one in late:
        lateness.observe(one)
    return lateness


def test_runs_that_end_as_predicted_need_the_least_margin() -> None:
    lateness = after(*[0.9, 1.0, 1.04] * 10)
    assert not lateness.outgrown
    lateness.adjust()
    assert lateness.margin == LEAST_MARGIN


def test_few_runs_say_nothing() -> None:
    lateness = after(2.0, 2.0, 2.0, 2.0)
    assert not lateness.outgrown
    lateness.observe(2.0)
    assert lateness.outgrown


def test_late_runs_need_a_margin_that_covers_nine_in_ten() -> None:
    lateness = after(*[1.0] * 17, 1.18, 1.19, 1.9)
    assert lateness.outgrown
    lateness.adjust()
    assert lateness.margin == pytest.approx(1.2), "the latest of twenty is a hiccup"
    assert not lateness.outgrown


def test_no_margin_takes_more_than_a_third_of_the_target() -> None:
    lateness = after(*[9.0] * RUNS)
    lateness.adjust()
    assert lateness.margin == 1.5


def test_a_margin_shrinks_only_when_many_runs_have_shown_that_it_can() -> None:
    lateness = after(*[1.25] * 5)
    lateness.adjust()
    for _ in range(RUNS - 2):
        lateness.observe(1.0)
        assert not lateness.outgrown
    lateness.observe(1.0)
    assert lateness.outgrown
    lateness.adjust()
    assert lateness.margin == LEAST_MARGIN


def test_runs_from_before_costs_were_corrected_are_forgotten() -> None:
    lateness = after(*[1.25] * RUNS)
    lateness.adjust()
    lateness.restart()
    assert lateness.margin == LEAST_MARGIN and not lateness.outgrown
