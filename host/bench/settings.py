"""The conditions under which a store is measured: how fast the flash is, how fast the processor."""

import math
from dataclasses import dataclass

from device_agent.planning.facts import Facts
from host.bench.baselines import predicted_ms, submodel
from host.bench.methods import Method, MethodKind
from shard_store.geometry import EXACT_BITWIDTH

FLASH_MB_S = (84.0, 200.0, 500.0)
CPU_PERCENT = (100.0,)
TARGETS = 5
_SLACK = 1.1  # the smallest and the largest target leave a little more than what is predicted


@dataclass(frozen=True, slots=True)
class Setting:
    """One device that is emulated. cpu_percent: the processor's speed, of this one's."""

    flash_mb_s: float
    cpu_percent: float = 100.0

    @property
    def name(self) -> str:
        """Also the name of its files."""
        return f"flash-{self.flash_mb_s:g}-cpu-{self.cpu_percent:g}"


def default_targets(facts: Facts, sequence: int, count: int = TARGETS) -> tuple[float, ...]:
    """Targets in ms, from barely one layer at the lowest bitwidth to the whole model streamed at the lattice's best.

    Evenly spaced in their ratios, and rounded to two digits upwards.
    """
    stored = sorted(facts.shard_bytes)
    lattice = [bits for bits in stored if bits != EXACT_BITWIDTH] or stored
    low, high = (Method(MethodKind.STD_PIPELINE, bits) for bits in (lattice[0], lattice[-1]))
    least_ms = predicted_ms(facts, submodel(facts, low, 1, facts.geometry.slices), sequence) * _SLACK
    most_ms = predicted_ms(facts, submodel(facts, high, facts.geometry.layers, facts.geometry.slices), sequence)
    most_ms = max(most_ms * _SLACK, least_ms)
    steps = [step / max(1, count - 1) for step in range(count)]
    return tuple(sorted({_two_digits(least_ms * (most_ms / least_ms) ** step) for step in steps}))


def _two_digits(value: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / unit - 1e-9) * unit, 6)
