"""How an engine runs."""

from dataclasses import dataclass
from pathlib import Path

from device_agent.draft import DEFAULT_DRAFTS
from device_agent.inplace import ExecutorChoice


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """A budget of None takes a quarter of the memory that is available at the start."""

    budget_bytes: int | None = None
    threads: int = 1
    loading_agents: int | None = None  # None: the planner decides; 1 without a target
    layers_in_flight: int = 2  # without a target
    direct: bool | None = False  # read past the page cache; None: where the file system can
    throttle_bytes_per_s: float | None = None
    slowdown: float = 1.0  # of the processor, emulated
    most_drafts: int = DEFAULT_DRAFTS  # tokens that are guessed in a step of generated texts; 0: none
    executor: ExecutorChoice = ExecutorChoice.AUTO
    plan_agents: bool = False  # for plans that leave residency open: agents, layers in flight and what to keep
    costs_path: Path | None = None  # where this device's costs are kept; None: measured anew by every engine
