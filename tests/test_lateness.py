import pytest

from device_agent.lateness import FEW_RUNS, LEAST_MARGIN, RUNS, Lateness, length_of


def after(*late: float) -> Lateness:
    lateness = Lateness()
    for one in late:
        lateness.observe(one)
    return lateness


def test_runs_that_end_as_predicted_need_the_least_margin() -> None:
    lateness = after(*[0.9, 1.0, 1.04] * 10)
    assert not lateness.outgrown and not lateness.off
    lateness.adjust()
    assert lateness.margin == LEAST_MARGIN


def test_few_runs_say_nothing() -> None:
    lateness = after(*[2.0] * (FEW_RUNS - 1))
    assert not lateness.outgrown and not lateness.off
    lateness.observe(2.0)
    assert lateness.outgrown and lateness.off


def test_the_first_run_of_all_is_a_hiccup() -> None:
    lateness = after(6.0, *[1.0] * (FEW_RUNS - 1))
    lateness.adjust()
    assert lateness.margin == LEAST_MARGIN
    lateness.observe(1.3)
    lateness.adjust()
    assert lateness.margin == pytest.approx(1.3), "the second counts"


def test_runs_that_scatter_need_a_margin_that_covers_nineteen_in_twenty() -> None:
    lateness = after(1.18, 1.19, 1.9, *[1.0] * 37)
    assert lateness.outgrown and not lateness.off
    lateness.adjust()
    assert lateness.margin == pytest.approx(1.2), "the latest of forty is a hiccup"
    assert not lateness.outgrown


def test_no_margin_takes_more_than_a_third_of_the_target() -> None:
    lateness = after(*[9.0] * RUNS)
    lateness.adjust()
    assert lateness.margin == 1.5


def test_a_margin_shrinks_only_when_many_runs_have_shown_that_it_can() -> None:
    lateness = after(*[1.25] * 5)
    lateness.adjust()
    for _ in range(RUNS - 3):
        lateness.observe(1.0)
        assert not lateness.outgrown
    lateness.observe(1.0)
    assert lateness.outgrown
    lateness.adjust()
    assert lateness.margin == LEAST_MARGIN


@pytest.mark.parametrize("late", [0.7, 1.3])
def test_costs_that_are_off_by_the_median_run_are_to_be_corrected(late: float) -> None:
    lateness = after(*[late] * FEW_RUNS)
    assert lateness.off
    lateness.corrected()
    assert not lateness.off and lateness.margin == LEAST_MARGIN, "all of it is corrected, nothing scatters"
    for _ in range(FEW_RUNS - 1):
        lateness.observe(late)
        assert not lateness.off, "only runs under the new costs say that they are off, too"


def test_costs_that_other_runs_corrected_are_judged_anew() -> None:
    lateness = after(*[1.3] * FEW_RUNS)
    lateness.expect_others()
    assert not lateness.off
    for _ in range(FEW_RUNS):
        lateness.observe(1.0)
    assert not lateness.off


def test_targets_of_about_one_length_share_their_lateness() -> None:
    assert length_of(15.0) == length_of(20.0) != length_of(30.0)


def test_how_runs_scatter_outlives_a_correction() -> None:
    lateness = after(*[1.3, 1.1, 1.3, 1.5, 1.5, 1.3, 1.3])
    lateness.corrected()
    assert lateness.margin == pytest.approx(1.2)
