import pytest

from device_agent import phases
from device_agent.phases import PhaseClock, PhaseTimes


class FakeTime:
    def __init__(self) -> None:
        self.seconds = 100.0

    def perf_counter(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(phases, "time", fake)
    return fake


def test_phases_add_up_in_milliseconds(now: FakeTime) -> None:
    clock = PhaseClock()
    for _ in range(2):
        with clock.phase("execute_ms"):
            now.seconds += 0.5
    with clock.phase("wait_ms"):
        now.seconds += 0.25
    clock.add("read_ms", 30.0)
    now.seconds += 1.0
    assert clock.times() == PhaseTimes(read_ms=30.0, execute_ms=1000.0, wait_ms=250.0, total_ms=2250.0)


def test_a_phase_that_fails_is_counted(now: FakeTime) -> None:
    clock = PhaseClock()
    with pytest.raises(ValueError, match="broken"), clock.phase("execute_ms"):
        now.seconds += 0.5
        raise ValueError("broken")
    assert clock.times().execute_ms == 500.0


def test_unknown_phases_are_a_mistake() -> None:
    with pytest.raises(KeyError):
        PhaseClock().add("sleep_ms", 1.0)


def test_times_of_passes_add_up() -> None:
    one, two = PhaseTimes(1.0, 2.0, 3.0, 4.0, 5.0), PhaseTimes(10.0, 20.0, 30.0, 40.0, 50.0)
    assert one + two == PhaseTimes(11.0, 22.0, 33.0, 44.0, 55.0)
    assert one + PhaseTimes() == one
