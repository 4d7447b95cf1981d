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

    def spend(self, nbytes: int) -> None:
        """Sleeps until the device would have delivered these bytes, after all that was asked for before."""
        with self._lock:
            now = self._clock()
            self._busy_until = max(now, self._busy_until) + nbytes / self._bytes_per_s
            wait_s = self._busy_until - now
        self._sleep(wait_s)
