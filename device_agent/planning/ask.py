"""What is asked of a planner: a latency target, a memory budget, and what it must keep to."""

from dataclasses import dataclass

from device_agent.plan import MAX_LOADING_AGENTS
from shard_store.errors import PlanError


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to the planner. None leaves the choice to it."""

    sequence: int
    budget_bytes: int
    target_ms: float | None = None  # None: the best quality, whatever the time
    texts: int = 1  # that share the pass
    residency: bool = True  # False: nothing may stay between runs
    preload_bytes: int | None = None  # the most of the budget for preloaded and resident layers
    bitwidths: tuple[int, ...] | None = None  # allowed; None: all that the store has
    loading_agents: int | None = None
    layers_in_flight: int | None = None

    def __post_init__(self) -> None:
        if self.target_ms is not None and not self.target_ms > 0:
            raise PlanError(f"target of {self.target_ms} ms: must be above 0")
        if self.texts < 1:
            raise PlanError(f"{self.texts} texts: must be at least 1")
        if self.preload_bytes is not None and self.preload_bytes < 0:
            raise PlanError(f"preload of {self.preload_bytes} bytes: must be at least 0")
        if self.loading_agents is not None and not 1 <= self.loading_agents <= MAX_LOADING_AGENTS:
            raise PlanError(f"{self.loading_agents} loading agents: must be 1 to {MAX_LOADING_AGENTS}")
        if self.layers_in_flight is not None and self.layers_in_flight < 1:
            raise PlanError(f"{self.layers_in_flight} layers in flight: must be at least 1")
