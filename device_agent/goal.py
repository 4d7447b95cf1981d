"""What a request asks of its run: an answer in time, in so much memory."""

import math
from dataclasses import dataclass

from shard_store.errors import PlanError

MAX_TARGET_MS = 3_600_000.0


@dataclass(frozen=True, slots=True)
class Goal:
    """target_ms is for the whole answer; memory_bytes caps this run, below the agent's own budget."""

    target_ms: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.target_ms is not None and not (math.isfinite(self.target_ms) and 0 < self.target_ms <= MAX_TARGET_MS):
            raise PlanError(f"target_ms is {self.target_ms:g}, must be above 0 and at most {MAX_TARGET_MS:g}")
        if self.memory_bytes is not None and self.memory_bytes <= 0:
            raise PlanError("memory_mb must be above 0")


NO_GOAL = Goal()
