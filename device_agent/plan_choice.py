"""Which plan to run when a request says nothing, a little, or everything about it."""

from dataclasses import dataclass, replace
from typing import Protocol

from device_agent.goal import NO_GOAL, Goal
from device_agent.plan import Plan
from shard_store.errors import PlanError


class UniformPlanner(Protocol):
    """What makes a plan from a bitwidth and sizes, any of them left to it."""

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        """Raises PlanError for what the store does not have."""


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """A whole plan, any of three numbers that stand for a uniform one, or a target that the planner is to meet."""

    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    plan: Plan | None = None
    goal: Goal = NO_GOAL

    def __post_init__(self) -> None:
        if self.plan and self.numbers != (None, None, None):
            raise PlanError("plan: give either a plan or bits, layers and slices, not both")
        if self.goal.target_ms is not None and (self.plan or self.numbers != (None, None, None)):
            raise PlanError("target_ms: the planner chooses for a target; give no plan, bits, layers or slices with it")

    @property
    def numbers(self) -> tuple[int | None, int | None, int | None]:
        """Bits, layers, slices."""
        return self.bits, self.layers, self.slices

    def over(self, default: "PlanChoice") -> "PlanChoice":
        """This choice, with what it leaves open taken from the default."""
        memory_bytes = self.goal.memory_bytes or default.goal.memory_bytes
        if self.plan or self.goal.target_ms is not None:
            return replace(self, goal=replace(self.goal, memory_bytes=memory_bytes))
        if self.numbers == (None, None, None):
            return replace(default, goal=replace(default.goal, memory_bytes=memory_bytes))
        bits, layers, slices = (
            fallback if own is None else own for own, fallback in zip(self.numbers, default.numbers, strict=True)
        )
        return PlanChoice(bits, layers, slices, goal=Goal(memory_bytes=memory_bytes))

    def resolve(self, planner: UniformPlanner) -> Plan | None:
        """The plan itself; None if the engine is to choose. Raises PlanError."""
        if self.plan or self.numbers == (None, None, None):
            return self.plan
        return planner.uniform_plan(*self.numbers)
