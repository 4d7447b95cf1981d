import pytest

from device_agent.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def test_work_takes_its_multiple() -> None:
    clock = Clock()
    with Pace(4.0, clock, clock.sleep).kept("work"):
        clock.now_s += 0.5
    assert clock.slept == [1.5]


def test_full_speed_neither_sleeps_nor_looks_at_the_clock() -> None:
    clock = Clock()
    with Pace(1.0, clock, clock.sleep).kept("work"):
        clock.now_s += 0.5
    assert clock.slept == []


def test_what_fails_fails_at_once() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="no"), Pace(4.0, clock, clock.sleep).kept("work"):
        raise ValueError("no")
    assert clock.slept == []


def test_what_work_waits_for_happens_once() -> None:
    clock = Clock()
    pace = Pace(4.0, clock, clock.sleep)
    for seconds in (0.5, 0.25, 8.0, 0.5):
        with pace.kept("work"):
            clock.now_s += seconds
    assert clock.slept == [1.5, 0.75, 0.75, 0.75]
    with pace.kept("other work"):
        clock.now_s += 8.0
    assert clock.slept[-1] == 24.0


def test_what_lasts_is_followed() -> None:
    clock = Clock()
    pace = Pace(3.0, clock, clock.sleep)
    for seconds in [1.0] * 20 + [4.0] * 15:
        with pace.kept("work"):
            clock.now_s += seconds
    assert clock.slept == [2.0] * 34 + [8.0]
