"""Keeps Python's own interruptions out of answers.

A collection of garbage takes milliseconds, in the middle of anything; only reference cycles need one, and they are
collected between answers. And a thread that wants Python's lock waits until its holder gives it up or an interval has
passed, which by default is as long as a short answer.
"""

import gc
import sys

_MANY, _FEW = 100_000, 1_000  # objects more than after the last collection
_SWITCH_S = 0.0005


def prefer_latency() -> None:
    """For this process: no automatic collections, what is alive now left out of all others, and quick turns."""
    gc.collect()
    gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_S)


def collect(*, idle: bool) -> None:
    """Collect if it is time for that; nothing to do where collections are automatic."""
    if not gc.isenabled() and gc.get_count()[0] > (_FEW if idle else _MANY):
        gc.collect()
