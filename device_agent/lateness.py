"""How much later than predicted runs end: whether costs are off, and what margin a target needs for the rest."""

import math
from collections import deque
from statistics import median

RUNS = 40  # that are looked back upon
FEW_RUNS = 5  # that say something
LEAST_MARGIN = 1.05
_KEPT_SHARE = 0.95
_STEP, _MOST = 0.05, 1.5
_LATE, _EARLY = 1.03, 0.92  # of the median run: worth to correct costs


def length_of(target_ms: float) -> int:
    """Targets of about one length have one number: what scatters by milliseconds matters less to longer ones."""
    return round(math.log2(target_ms))


class Lateness:
    """Measured by predicted time of the last runs for targets of about one length.

    A margin of 1.2 plans for targets that are shorter by a sixth.
    """

    def __init__(self) -> None:
        self.margin = LEAST_MARGIN
        self._late: deque[float] = deque(maxlen=RUNS)
        self._runs = 0  # since costs were corrected

    def observe(self, late: float) -> None:
        """Take note of a run that took `late` times as long as predicted."""
        self._late.append(late)
        self._runs += 1

    @property
    def off(self) -> bool:
        """Whether the costs in use should be corrected: by the median of the last few runs."""
        if self._runs < FEW_RUNS:
            return False
        return not _EARLY <= median(list(self._late)[-FEW_RUNS:]) <= _LATE

    @property
    def outgrown(self) -> bool:
        """Whether another margin is due: a larger one soon, a smaller one once many runs have shown it."""
        shown = self._shown()
        return shown > self.margin or (shown < self.margin - _STEP and len(self._late) == RUNS)

    def adjust(self) -> None:
        """Take the margin that the runs show."""
        self.margin = self._shown()

    def corrected(self) -> None:
        """Costs have been corrected by the last few runs: those will be in time, and scatter as before."""
        late = list(self._late)
        middle, before = median(late[-FEW_RUNS:]), max(0, len(late) - self._runs)
        self._late = deque([*late[:before], *(one / middle for one in late[before:])], maxlen=RUNS)
        self._runs = 0
        self.adjust()

    def expect_others(self) -> None:
        """Costs have been corrected by runs for other targets: what was late before says nothing of them."""
        self._runs = 0

    def _shown(self) -> float:
        if len(self._late) < FEW_RUNS:
            return self.margin
        # of few runs the latest is a hiccup, such as the first of all, which finds nothing ready
        late = sorted(self._late)[min(math.ceil(_KEPT_SHARE * len(self._late)) - 1, len(self._late) - 2)]
        return min(max(math.ceil(late / _STEP - 1e-9) * _STEP, LEAST_MARGIN), _MOST)
