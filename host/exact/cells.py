"""What is compared: ways of running one store's model, on flash of several speeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Way:
    """One way of running all layers. Without a cap every layer streams."""

    name: str
    schedule: str  # as in plan files
    bits: int
    cap_bytes: int | None = None
    agents: int | None = None  # None: the planner picks


@dataclass(frozen=True, slots=True)
class Flash:
    """A speed of the flash; None: as it is."""

    bytes_per_s: int | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return "unthrottled" if self.bytes_per_s is None else f"{self.bytes_per_s / 1e6:.0f} MB/s"


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to measure, at one sequence length."""

    name: str
    store: Path
    sequence: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement."""

    subject: Subject
    flash: Flash
    way: Way

    @property
    def key(self) -> str:
        """Tells cells apart, also between runs."""
        way = self.way
        cap = "" if way.cap_bytes is None else f"{way.cap_bytes / MIB:.1f} MiB"
        parts = (self.subject.name, self.subject.sequence, self.flash.name, way.name, way.bits, cap, way.agents or "")
        return " | ".join(map(str, parts))


PIPESWITCH_FP32 = Way("PipeSwitch, 32 bits", "free_last", 32, agents=1)
PIPESWITCH_INT8 = Way("PipeSwitch, 8 bits", "free_last", 8, agents=1)
BASELINES = (
    Way("load all, 32 bits", "load_first", 32, agents=1), PIPESWITCH_FP32,
    Way("load all, 8 bits", "load_first", 8, agents=1), PIPESWITCH_INT8,
)  # fmt: skip


def ways(caps_bytes: Sequence[int], agents: Sequence[int]) -> Iterator[Way]:
    """The baselines; PIPELOAD with so many agents and nothing resident; PIPELOAD as planned for each cap."""
    yield from BASELINES
    for number in agents:
        yield Way(f"PIPELOAD, {number} agents", "pipelined", 8, agents=number)
    for cap in caps_bytes:
        yield Way("PIPELOAD, planned", "pipelined", 8, cap_bytes=cap)


def cells(subjects: Sequence[tuple[Subject, Sequence[Way]]], speeds: Sequence[Flash]) -> list[Cell]:
    """Every model on every flash in every way."""
    return [Cell(subject, flash, way) for subject, its_ways in subjects for flash in speeds for way in its_ways]
