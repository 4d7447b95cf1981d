"""How high a ladder may be climbed in time: the levels of one candidate, looked at from the top down."""

from dataclasses import dataclass

import numpy as np

from device_agent.plan import Plan
from device_agent.planning.batch import Loads, finish_ms, least_ms, rows_of, together
from device_agent.planning.climb import Climb
from device_agent.planning.kept import Kept
from device_agent.planning.options import Floats, Indices
from device_agent.planning.schedule import Way

SAME_LOSS = 1e-12
_SAME_MS = 1e-9  # sums in another order


@dataclass(frozen=True, slots=True)
class Ascent:
    """A climb, with some layers kept and one way through the pipeline."""

    climb: Climb
    kept: Kept
    way: Way
    kept_loss: float  # of all but the streamed layers

    def highest(self, start: int, stop: int, limit_ms: float) -> "tuple[int, Found] | None":
        """The highest of levels start to stop - 1 that is within the limit."""
        if start == stop:
            return None
        loads = self.climb.loads(start, stop)
        bounds = least_ms(loads, self.way, self.kept.resident, self.climb.cell.execute_ms)
        likely = np.flatnonzero(bounds <= limit_ms + _SAME_MS)
        if not len(likely):
            return None
        ends = self._ends(rows_of(loads, likely))
        within = np.flatnonzero(ends <= limit_ms)
        if not len(within):
            return None
        level = start + int(likely[within[-1]])
        loss = self.kept_loss + float(self.climb.losses(level, level + 1)[0])
        return level, Found(loss, float(ends[within[-1]]), self, self.climb.chosen(level))

    def near(self, level: int, limit_ms: float) -> "Found | None":
        """The best of the alternatives around a level, the fastest of equals."""
        chosen = self.climb.near(level)
        losses, ends = self.climb.losses_of(chosen), self._ends(self.climb.loads_of(chosen))
        losses[ends > limit_ms] = np.inf
        best = int(np.where(losses <= losses.min() + SAME_LOSS, ends, np.inf).argmin())
        if losses[best] == np.inf:
            return None
        return Found(self.kept_loss + float(losses[best]), float(ends[best]), self, chosen[best])

    def _ends(self, loads: Loads) -> Floats:
        if self.kept.preloaded:
            loads = together(self.kept.loads(self.climb.facts), loads)
        return finish_ms(loads, self.way, self.kept.resident, self.climb.cell.execute_ms)


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate that keeps target and budget."""

    loss: float
    total_ms: float  # of the layers
    ascent: Ascent
    chosen: Indices  # (streamed layers, slices): options

    @property
    def plan(self) -> Plan:
        """What to run."""
        return self.ascent.climb.plan(self.chosen, self.ascent.way, self.ascent.kept)
