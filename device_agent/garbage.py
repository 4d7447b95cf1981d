"""Keeps Python's garbage collector out of answers: a collection takes milliseconds, in the middle of anything.

Only reference cycles need one. They are collected between answers: when nothing waits, or when many have come together.
"""

import gc

_MANY, _FEW = 100_000, 1_000  # objects more than after the last collection


def hold_collections() -> None:
    """Stop automatic collections in this process, and leave out for good what is alive now: code and the model."""
    gc.collect()
    gc.freeze()
    gc.disable()


def collect(*, idle: bool) -> None:
    """Collect if it is time for that; nothing to do where collections are automatic."""
    if not gc.isenabled() and gc.get_count()[0] > (_FEW if idle else _MANY):
        gc.collect()
