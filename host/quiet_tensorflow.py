"""TensorFlow, imported only here and quietly: what goes wrong arrives as exceptions, the rest is chatter."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_stderr", "tf"]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send what native code writes to standard error nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


with quiet_stderr():
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for GPUs, and complains where there are none

tf.get_logger().setLevel("ERROR")  # no advice on tracing
