"""Corrects device costs by what runs show: flash slows down when it is hot, processors when they are busy."""

import math
from collections import deque
from dataclasses import astuple, dataclass, replace
from statistics import median

from device_agent.costs import MOST_CROWDING, DeviceCosts, PrepareCost, ReadCost
from device_agent.phases import PhaseTimes
from shard_store.bitpack import CODE_PLANES

_RUNS = 5  # that are looked back upon: the one in the middle is believed, so that two hiccups change nothing
_FADING = 0.9  # of the exponent, when a run says nothing: what nobody looks at any more may be right again
_LIMIT = 64.0  # a factor beyond that is not drift but a mistake
_LEAST_MS = 0.2  # phases shorter than that say nothing
_MOSTLY = 0.7  # of a pass's preparing: it says nothing of the rest
_CROWDED = 2.0  # how much more than a pass its preparing is off: it is about half of what several agents do


@dataclass(frozen=True, slots=True)
class Factors:
    """How many times longer than measured a phase takes now."""

    read: float = 1.0
    prepare: float = 1.0  # at 8 and 32 bits
    unpack: float = 1.0  # preparing at 2 to 6 bits
    execute: float = 1.0
    outside: float = 1.0  # of a pass: the rest of an answer
    crowding: float = 1.0  # preparing by several agents, than it should by what one takes


class Drift:
    """Follows how far measured passes are from predicted ones, within three runs."""

    def __init__(self) -> None:
        self.factors = Factors()
        self.used = Factors()  # what predictions are made with
        self._shown = deque([Factors()] * _RUNS, maxlen=_RUNS)

    def observe(
        self, predicted: PhaseTimes, measured: PhaseTimes, agents: int = 1, *, unpacked_share: float = 0.0
    ) -> None:
        """Take note of one pass. Several agents wait for each other in phases that are not theirs.

        unpacked_share: of the preparing that was predicted, the part at 2 to 6 bits. Other code does the rest, so that
        one may be faster than it was measured and the other slower.
        """
        used = self.used
        crowded = agents > 1
        plain_ms = predicted.prepare_ms if not crowded and unpacked_share < _MOSTLY else 0.0
        unpacked_ms = predicted.prepare_ms if not crowded and unpacked_share > 1.0 - _MOSTLY else 0.0
        self._shown.append(
            Factors(
                _shown(used.read, 0.0 if crowded else predicted.read_ms, measured.read_ms),
                _shown(used.prepare, plain_ms, measured.prepare_ms),
                _shown(used.unpack, unpacked_ms, measured.prepare_ms),
                _shown(used.execute, predicted.execute_ms, measured.execute_ms),
                _shown(used.outside, predicted.outside_ms, measured.outside_ms),
                _shown(
                    used.crowding,
                    (predicted.total_ms - predicted.outside_ms) ** _CROWDED if crowded else 0.0,
                    measured.total_ms**_CROWDED,
                ),
            )
        )
        self.factors = Factors(*(median(shown) for shown in zip(*map(astuple, self._shown), strict=True)))

    def use(self, factors: Factors) -> None:
        """From here on predictions are made with costs that were corrected by these."""
        self.used = factors


def corrected(costs: DeviceCosts, factors: Factors) -> DeviceCosts:
    """The costs as they are now, from those that were measured."""
    read, execute = factors.read, factors.execute
    return replace(
        costs,
        read=ReadCost(costs.read.latency_ms * read, costs.read.bytes_per_ms / read),
        prepare={
            kind: PrepareCost(
                cost.layer_ms * math.sqrt(factors.prepare * factors.unpack),
                {
                    bits: ms * (factors.unpack if bits in CODE_PLANES else factors.prepare)
                    for bits, ms in cost.shard_ms.items()
                },
            )
            for kind, cost in costs.prepare.items()
        },
        execute={
            kind: {sequence: tuple(ms * execute for ms in row) for sequence, row in rows.items()}
            for kind, rows in costs.execute.items()
        },
        pass_ms=costs.pass_ms * factors.outside,
        crowding_factor=min(max(costs.crowding_factor * factors.crowding, 1.0), MOST_CROWDING),
    )


def _shown(used: float, predicted_ms: float, measured_ms: float) -> float:
    """The factor that one pass shows; `used` is what the prediction was made with."""
    if predicted_ms < _LEAST_MS or measured_ms <= 0:
        return math.pow(used, _FADING)
    return min(max(used * measured_ms / predicted_ms, 1 / _LIMIT), _LIMIT)
