"""The findings of `sti doctor`."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Level(str, Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # works, but worse than it could
    PROBLEM = "problem"  # does not work


@dataclass(frozen=True, slots=True)
class Check:
    """One finding, and what to do about it unless it is fine."""

    where: str  # "host", or the device
    name: str
    level: Level
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings. `level` is the worst of them."""

    level: Level
    checks: tuple[Check, ...]


def diagnosis(checks: Iterable[Check]) -> Diagnosis:
    """Sum findings up."""
    found = tuple(checks)
    order = list(Level)
    return Diagnosis(max((check.level for check in found), key=order.index, default=Level.OK), found)
