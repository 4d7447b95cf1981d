"""A slower processor, emulated: whatever a thread computes takes a multiple of the processor time that it needs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """slowdown: how many times longer work takes; 1 for the processor as it is.

    The rest of the time is slept, so that other threads work meanwhile as on cores of their own. The kernel's quotas
    are too coarse for that: 1 ms of processor time at least, which is more than a small layer takes. Processor time,
    because what others take from this thread meanwhile would not take longer on a slower processor.
    """

    slowdown: float = 1.0
    clock: Callable[[], float] = time.thread_time
    sleep: Callable[[float], None] = time.sleep

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Stretch what is done inside, unless it fails."""
        if self.slowdown == 1.0:
            yield
            return
        started = self.clock()
        yield
        self.sleep((self.slowdown - 1.0) * (self.clock() - started))
