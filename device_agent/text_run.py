"""What a text with a target is generated with, what was promised of its steps, and how they went."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from device_agent.phases import PhaseTimes
from device_agent.plan import Plan, Residency
from device_agent.promise import Promise


@dataclass(frozen=True, slots=True)
class TextRun:
    """Target and promise are of one step that makes one token."""

    plan: Plan
    target_ms: float
    promise: Promise


def yielding(plan: Plan) -> Plan:
    """The same, but layers stay only as far as the budget holds: texts that join later bring their own caches."""
    return plan.with_residency(
        [None if layer.residency is Residency.RESIDENT else layer.residency for layer in plan.layers]
    )


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One step behind those that read the prompt."""

    ms: float  # for each token that it made: embedding, the layers, the head, the choice
    times: PhaseTimes  # of its passes
    plain: bool  # of this text alone, without guesses: as it was planned


def token_ms(steps: Sequence[TokenStep]) -> float | None:
    """The median of a text's steps: the first of them loads the layers that stay. None for an answer of one token."""
    return median_low(step.ms for step in steps) if steps else None


def typical_times(steps: Sequence[TokenStep]) -> PhaseTimes | None:
    """Phases of the median step among those that ran as planned."""
    alone = sorted((step for step in steps if step.plain), key=lambda step: step.ms)
    if not alone:
        return None
    middle = alone[(len(alone) - 1) // 2]
    return replace(middle.times, outside_ms=max(0.0, middle.ms - middle.times.total_ms))
