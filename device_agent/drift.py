"""Corrects device costs by what runs show: flash slows down when it is hot, processors when they are busy."""

import math
from dataclasses import dataclass, replace

from device_agent.costs import DeviceCosts, PrepareCost, ReadCost
from device_agent.phases import PhaseTimes

_WEIGHT_SLOWER = 0.5  # of the newest run, where it was slower than expected: promises should hold
_WEIGHT_FASTER = 0.1  # where it was faster: good luck may pass
_LIMIT = 64.0  # a factor beyond that is not drift but a mistake
_STEP = 4.0  # the most that one pass can show: a hiccup is not drift either
_LEAST_MS = 0.2  # phases shorter than that say nothing
WORTH_REPLANNING = 0.1  # relative change of a factor


@dataclass(frozen=True, slots=True)
class Factors:
    """How many times longer than measured a phase takes now."""

    read: float = 1.0
    prepare: float = 1.0
    execute: float = 1.0

    def differs(self, other: "Factors") -> bool:
        """Whether plans made with one are worth making again with the other."""
        pairs = ((self.read, other.read), (self.prepare, other.prepare), (self.execute, other.execute))
        return any(abs(math.log(one / two)) > math.log1p(WORTH_REPLANNING) for one, two in pairs)


class Drift:
    """Follows how far measured passes are from predicted ones."""

    def __init__(self) -> None:
        self.factors = Factors()
        self._used = Factors()

    def observe(self, predicted: PhaseTimes, measured: PhaseTimes) -> bool:
        """Take note of one pass; True if the costs in use should be corrected now."""
        used, factors = self._used, self.factors
        self.factors = Factors(
            _moved(factors.read, used.read, predicted.read_ms, measured.read_ms),
            _moved(factors.prepare, used.prepare, predicted.prepare_ms, measured.prepare_ms),
            _moved(factors.execute, used.execute, predicted.execute_ms, measured.execute_ms),
        )
        return self.factors.differs(used)

    def correct(self, costs: DeviceCosts) -> DeviceCosts:
        """The costs as they are now, from those that were measured; they are taken as in use from here on."""
        self._used = self.factors
        read, prepare, execute = self.factors.read, self.factors.prepare, self.factors.execute
        return replace(
            costs,
            read=ReadCost(costs.read.latency_ms * read, costs.read.bytes_per_ms / read),
            prepare={
                kind: PrepareCost(cost.layer_ms * prepare, {bits: ms * prepare for bits, ms in cost.shard_ms.items()})
                for kind, cost in costs.prepare.items()
            },
            execute={
                kind: {sequence: tuple(ms * execute for ms in row) for sequence, row in rows.items()}
                for kind, rows in costs.execute.items()
            },
        )


def _moved(factor: float, used: float, predicted_ms: float, measured_ms: float) -> float:
    """The factor, moved towards what this pass shows; `used` is what the prediction was made with."""
    if predicted_ms < _LEAST_MS or measured_ms <= 0:
        return factor
    shown = min(max(used * measured_ms / predicted_ms, factor / _STEP, 1 / _LIMIT), factor * _STEP, _LIMIT)
    weight = _WEIGHT_SLOWER if shown > factor else _WEIGHT_FASTER
    return math.exp((1 - weight) * math.log(factor) + weight * math.log(shown))
