"""The answer of a planner."""

from dataclasses import dataclass

from device_agent.plan import Plan


@dataclass(frozen=True, slots=True)
class Choice:
    """A plan, complete with residency, and what it is predicted to do."""

    plan: Plan
    predicted_ms: float
    predicted_loss: float  # nats
    predicted_peak_bytes: int
    met: bool  # target and budget are predicted to hold
    reason: str | None  # why not, and the nearest that can be met
