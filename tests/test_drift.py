import pytest

from device_agent.drift import Drift
from device_agent.phases import PhaseTimes
from tests.costs import small_costs

EXPECTED = PhaseTimes(read_ms=10.0, prepare_ms=4.0, execute_ms=8.0, outside_ms=2.0)


def slower(read: float = 1.0, prepare: float = 1.0, execute: float = 1.0, outside: float = 1.0) -> PhaseTimes:
    return PhaseTimes(
        read_ms=EXPECTED.read_ms * read, prepare_ms=EXPECTED.prepare_ms * prepare,
        execute_ms=EXPECTED.execute_ms * execute, outside_ms=EXPECTED.outside_ms * outside,
    )  # fmt: skip


def test_what_comes_as_expected_changes_nothing() -> None:
    drift = Drift()
    assert not any(drift.observe(EXPECTED, slower(1.02, 0.98, 1.0)) for _ in range(20))
    assert drift.correct(small_costs()).read.latency_ms == pytest.approx(0.25, rel=0.05)


def test_slower_flash_is_followed_within_a_few_runs() -> None:
    drift = Drift()
    followed = [drift.observe(EXPECTED, slower(read=3.0)) for _ in range(3)]
    assert followed == [False, False, True]
    for _ in range(6):
        drift.observe(EXPECTED, slower(read=3.0))
    costs = drift.correct(small_costs())
    assert costs.read.ms(1000) == pytest.approx(3 * small_costs().read.ms(1000), rel=0.05)
    assert costs.prepare == small_costs().prepare and costs.execute == small_costs().execute
    # from here on predictions are made with the corrected costs
    corrected = PhaseTimes(30.0, 4.0, 8.0, outside_ms=2.0)
    assert not any(drift.observe(corrected, slower(read=3.0)) for _ in range(5))


def test_faster_is_followed_as_slower_is() -> None:
    quick, slow = Drift(), Drift()
    for drift, factor in ((quick, 0.5), (slow, 2.0)):
        assert [drift.observe(EXPECTED, slower(execute=factor)) for _ in range(3)] == [False, False, True]
        assert drift.factors.execute == factor


def test_what_an_answer_takes_besides_its_pass_is_followed_too() -> None:
    drift = Drift()
    for _ in range(3):
        drift.observe(EXPECTED, slower(outside=2.0))
    assert drift.correct(small_costs()).pass_ms == pytest.approx(2 * small_costs().pass_ms)
    assert drift.correct(small_costs()).read == small_costs().read


def test_hiccups_are_not_believed() -> None:
    drift = Drift()
    assert not drift.observe(EXPECTED, slower(prepare=1000.0))
    assert not drift.observe(EXPECTED, slower(prepare=1000.0))
    assert drift.factors.prepare == 1.0


def test_phases_that_take_no_time_say_nothing() -> None:
    drift = Drift()
    assert not drift.observe(PhaseTimes(read_ms=0.01), PhaseTimes(read_ms=5.0, prepare_ms=3.0))
    assert not drift.observe(EXPECTED, PhaseTimes())
