"""What was promised of an answer before it ran, and how it turned out."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_agent.phases import PhaseTimes


@dataclass(frozen=True, slots=True)
class Promise:
    """What the planner expects of one pass."""

    predicted_ms: float
    predicted_loss: float
    predicted_peak_bytes: int
    reason: str | None  # why the target cannot be met, and which can
    times: PhaseTimes  # as forecast, phase by phase


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer with a target turned out."""

    target_ms: float
    predicted_ms: float
    measured_ms: float
    predicted_loss: float
    predicted_peak_bytes: int
    reason: str | None

    @property
    def met(self) -> bool:
        """Whether the answer came in time."""
        return self.measured_ms <= self.target_ms


def outcome_of(target_ms: float, promises: Sequence[Promise], measured_ms: float) -> Outcome:
    """Sum up an answer's passes: times add, the worst loss and the highest peak count."""
    reasons = [promise.reason for promise in promises if promise.reason]
    return Outcome(
        target_ms=target_ms,
        predicted_ms=sum(promise.predicted_ms for promise in promises),
        measured_ms=measured_ms,
        predicted_loss=max(promise.predicted_loss for promise in promises),
        predicted_peak_bytes=max(promise.predicted_peak_bytes for promise in promises),
        reason=reasons[0] if reasons else None,
    )
