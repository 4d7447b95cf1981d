"""A software throttle, for machines on which the kernel cannot slow the flash down."""

import threading
import time
from collections.abc import Callable


class TokenBucket:
    """One device of a given speed, shared by all readers: a read ends when all bytes asked for so far are there."""

    def __init__(
        self,
        bytes_per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not bytes_per_s > 0:
            raise ValueError(f"throttle is {bytes_per_s} bytes/s, must be positive")
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._busy_until = clock()

    def now(self) -> float:
        """The time by the bucket's clock: when a read is asked for."""
        return self._clock()

    def spend(self, nbytes: int, asked_s: float | None = None) -> None:
        """Sleeps until the device would have delivered these bytes, after all that was asked for before.

        asked_s: when they were asked for (default: now), so that the time the real device took counts.
        """
        with self._lock:
            now = self._clock()
            begin = max(now if asked_s is None else asked_s, self._busy_until)
            self._busy_until = begin + nbytes / self._bytes_per_s
            wait_s = self._busy_until - now
        if wait_s > 0:
            self._sleep(wait_s)
