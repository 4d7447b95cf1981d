"""A slower processor, emulated: whatever a thread computes takes a multiple of the processor time that it needs."""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

_LATELY = 15  # times of a kind of work that are looked back upon


class Pace:
    """Shared by all threads of an agent.

    The rest of the time is slept, so that other threads work meanwhile as on cores of their own. The kernel's quotas
    are too coarse for that: 1 ms of processor time at least, which is more than a small layer takes. Processor time,
    because what others take from a thread meanwhile would not take longer on a slower processor. And the least that the
    same work took lately, because memory is no slower there: waiting for it, which after a rest is most of what short
    work takes, happens once, not several times.
    """

    def __init__(
        self, slowdown: float = 1.0, clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """slowdown: how many times longer work takes; 1 for the processor as it is."""
        self._slowdown = slowdown
        self._clock, self._sleep = clock, sleep
        self._taken: defaultdict[Hashable, deque[float]] = defaultdict(lambda: deque(maxlen=_LATELY))  # seconds

    @contextmanager
    def kept(self, work: Hashable) -> Iterator[None]:
        """Stretch what is done inside, unless it fails. work: what tells it from work that takes another time."""
        if self._slowdown == 1.0:
            yield
            return
        started = self._clock()
        yield
        taken = self._taken[work]
        taken.append(self._clock() - started)
        self._sleep((self._slowdown - 1.0) * min(list(taken)))
