"""What an engine answers, and what it tells of how it did."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.phases import PhaseTimes
from device_agent.plan import Plan
from device_agent.promise import Outcome
from device_agent.text import Tokens


@dataclass(frozen=True, slots=True)
class RunReport:
    """What ran for one answer."""

    layers: int
    slices: int
    bits: tuple[int, ...]
    resident_layers: int
    tokens: int
    sequences: tuple[int, ...]
    passes: int
    times: PhaseTimes
    answer_ms: float  # tokenising, planning, all passes, the head
    budget_bytes: int
    model_peak_bytes: int
    process_peak_bytes: int
    executor: str = "constant"  # how streamed int8 layers ran
    plans: tuple[Plan, ...] = ()  # of each pass
    outcome: Outcome | None = None  # of a run with a target


@dataclass(frozen=True, slots=True)
class Answer:
    """One output per input: an embedding (features,), logits (labels,) or (tokens, labels)."""

    outputs: tuple[npt.NDArray[np.float32], ...]
    tokens: tuple[Tokens, ...]
    report: RunReport
