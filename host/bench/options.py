"""What `sti bench` is asked to measure."""

from dataclasses import dataclass, replace

from host.bench.settings import CPU_PERCENT, FLASH_MB_S, TARGETS, Setting
from shard_store.errors import RequestError

REPEATS = 15
QUICK_REPEATS = 5
QUICK_TEXTS = 100
QUICK_TARGETS = 2


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """None: chosen by the device's costs. cpu_percent: processor speeds, 100 for this one's. Raises RequestError."""

    targets_ms: tuple[float, ...] | None = None
    flash_mb_s: tuple[float, ...] = FLASH_MB_S
    cpu_percent: tuple[float, ...] = CPU_PERCENT
    memory_bytes: int | None = None  # of STI; None: a tenth of the whole model, or the least that streams it
    targets: int = TARGETS
    repeats: int = REPEATS
    texts: int | None = None  # only so many of the data

    def __post_init__(self) -> None:
        numbers = (*(self.targets_ms or ()), *self.flash_mb_s, *self.cpu_percent)
        if not all(0 < number < 1e9 for number in numbers):
            raise RequestError("targets, flash and processor speeds must be above 0")
        if not (self.flash_mb_s and self.cpu_percent and self.targets_ms != ()):
            raise RequestError("nothing to measure; give at least one target, flash speed and processor speed")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All emulated devices."""
        return tuple(Setting(flash, cpu) for cpu in self.cpu_percent for flash in self.flash_mb_s)

    def quick(self) -> "BenchOptions":
        """A first look: fewer requests, targets and texts."""
        return replace(self, targets=QUICK_TARGETS, repeats=QUICK_REPEATS, texts=QUICK_TEXTS)
