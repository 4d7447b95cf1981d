"""The state of the kernel that tests run on."""

from pathlib import Path

_TAINTED = Path("/proc/sys/kernel/tainted")
_DIED = 1 << 7  # "the kernel died recently": an oops or a BUG


def has_crashed() -> bool:
    """Whether the kernel has met a bug of its own since the machine started: then network calls may hang for ever."""
    try:
        return bool(int(_TAINTED.read_text()) & _DIED)
    except OSError:
        return False
