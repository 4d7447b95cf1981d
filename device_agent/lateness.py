"""How much later than predicted runs end, and what margin a target needs for that."""

import math
from collections import deque

RUNS = 20  # that are looked back upon, since costs were corrected last
_FEW_RUNS = 5
_KEPT_SHARE = 0.9  # of few runs all must be in time; of many, one in ten may be a hiccup
LEAST_MARGIN = 1.05
_STEP, _MOST = 0.05, 1.5


class Lateness:
    """Measured by predicted time of the last runs. A margin of 1.2 plans for targets that are shorter by a sixth."""

    def __init__(self) -> None:
        self.margin = LEAST_MARGIN
        self._late: deque[float] = deque(maxlen=RUNS)

    def observe(self, late: float) -> None:
        """Take note of a run that took `late` times as long as predicted."""
        self._late.append(late)

    @property
    def outgrown(self) -> bool:
        """Whether another margin is due: a larger one soon, a smaller one once many runs have shown it."""
        shown = self._shown()
        return shown > self.margin or (shown < self.margin - _STEP and len(self._late) == RUNS)

    def adjust(self) -> None:
        """Take the margin that the runs show."""
        self.margin = self._shown()

    def restart(self) -> None:
        """Forget runs that were predicted with other costs; the margin is small until new ones show another."""
        self._late.clear()
        self.margin = LEAST_MARGIN

    def _shown(self) -> float:
        if len(self._late) < _FEW_RUNS:
            return self.margin
        late = sorted(self._late)[int(_KEPT_SHARE * len(self._late))]
        return min(max(math.ceil(late / _STEP - 1e-9) * _STEP, LEAST_MARGIN), _MOST)
