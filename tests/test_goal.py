import math

import pytest

from device_agent.goal import Goal
from shard_store.errors import PlanError


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf, 1e9])
def test_impossible_targets_are_refused(target: float) -> None:
    with pytest.raises(PlanError, match=r"target_ms is .*, must be above 0 and at most 3\.6e"):
        Goal(target_ms=target)


def test_memory_must_be_some() -> None:
    with pytest.raises(PlanError, match="memory_mb must be above 0"):
        Goal(memory_bytes=0)
