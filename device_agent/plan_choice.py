"""Which plan to run when a request says nothing, a little, or everything about it."""

from dataclasses import dataclass
from typing import Protocol

from device_agent.plan import Plan
from shard_store.errors import PlanError


class UniformPlanner(Protocol):
    """What makes a plan from a bitwidth and sizes, any of them left to it."""

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        """Raises PlanError for what the store does not have."""


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """A whole plan, or any of three numbers that stand for a uniform one."""

    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        if self.plan and self.numbers != (None, None, None):
            raise PlanError("plan: give either a plan or bits, layers and slices, not both")

    @property
    def numbers(self) -> tuple[int | None, int | None, int | None]:
        """Bits, layers, slices."""
        return self.bits, self.layers, self.slices

    def over(self, default: "PlanChoice") -> "PlanChoice":
        """This choice, with what it leaves open taken from the default."""
        if self.plan:
            return self
        if self.numbers == (None, None, None):
            return default
        bits, layers, slices = (
            fallback if own is None else own for own, fallback in zip(self.numbers, default.numbers, strict=True)
        )
        return PlanChoice(bits, layers, slices)

    def resolve(self, planner: UniformPlanner) -> Plan:
        """The plan itself. Raises PlanError."""
        return self.plan or planner.uniform_plan(*self.numbers)
