"""Where the time of a pass goes."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """Milliseconds of one pass. Reading and preparing overlap with executing; waiting is what they could not hide.

    outside_ms: what an answer takes besides its pass, where that is known; no part of total_ms.
    """

    read_ms: float = 0.0
    prepare_ms: float = 0.0
    execute_ms: float = 0.0
    wait_ms: float = 0.0
    total_ms: float = 0.0
    outside_ms: float = 0.0

    def __add__(self, other: "PhaseTimes") -> "PhaseTimes":
        return PhaseTimes(
            self.read_ms + other.read_ms, self.prepare_ms + other.prepare_ms, self.execute_ms + other.execute_ms,
            self.wait_ms + other.wait_ms, self.total_ms + other.total_ms, self.outside_ms + other.outside_ms,
        )  # fmt: skip


class PhaseClock:
    """Adds up the phases of one pass, from its making on."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._ms = {"read_ms": 0.0, "prepare_ms": 0.0, "execute_ms": 0.0, "wait_ms": 0.0}

    def add(self, phase: str, ms: float) -> None:
        """Count time that was measured elsewhere."""
        self._ms[phase] += ms

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time spent inside."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._ms[name] += (time.perf_counter() - before) * 1e3

    def times(self) -> PhaseTimes:
        """All phases up to now."""
        return PhaseTimes(**self._ms, total_ms=(time.perf_counter() - self._started) * 1e3)


class Stopwatch:
    """The time of an answer, and what is left of its target."""

    def __init__(self, target_ms: float | None) -> None:
        self._started = time.perf_counter()
        self._target_ms = target_ms

    @property
    def target_ms(self) -> float:
        """The whole target; endless if there is none."""
        return math.inf if self._target_ms is None else self._target_ms

    @property
    def limited(self) -> bool:
        """Whether there is a target."""
        return self._target_ms is not None

    @property
    def elapsed_ms(self) -> float:
        """Since the answer began."""
        return (time.perf_counter() - self._started) * 1e3

    @property
    def left_ms(self) -> float:
        """Until the target; never below 0."""
        return max(0.0, self.target_ms - self.elapsed_ms)
