"""One configuration of an exact model, measured in a process of its own: `python -m device_agent.exact_trial`.

Reads a trial as one line of JSON, says what memory the idle agent has, waits for a line so that whoever started it can
set a cap, then runs and prints the result as one line of JSON.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.exact_plan import LayerTimes, plan_exact
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan, Residency, Schedule
from device_agent.process_memory import anonymous_share
from shard_store.errors import PlanError, StiError

UNLIMITED_BYTES = 1 << 40
_WORD = "a "
_WAITS = 0.1  # share of a pass; less is chance


@dataclass(frozen=True, slots=True)
class Trial:
    """What to run. Without a cap, memory is as large as the schedule wants and every layer streams."""

    store: str
    bits: int
    sequence: int
    schedule: Schedule
    cap_bytes: int | None = None
    agents: int | None = None  # None: the planner picks
    requests: int = 3
    direct: bool = True
    threads: int = 1

    @classmethod
    def parse(cls, line: str) -> "Trial":
        """From one line of JSON. Raises PlanError."""
        try:
            fields: dict[str, Any] = json.loads(line)
            return cls(**{**fields, "schedule": Schedule(fields["schedule"])})
        except (ValueError, TypeError, KeyError) as error:
            raise PlanError(f"trial: {error}") from error


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The median request; memory in bytes, as the agent itself accounts for it."""

    times: PhaseTimes
    all_ms: tuple[float, ...]
    agents: int
    layers_in_flight: int
    layers: int
    resident_layers: int
    preloaded_layers: int
    predicted_ms: float | None  # by the planner
    predicted_bytes: int
    accounted_bytes: int
    read_bytes: int  # from flash in every request


def main() -> None:
    """Run the trial that stands on standard input. Exits 1 with one line if it cannot be run."""
    try:
        trial = Trial.parse(sys.stdin.readline())
        options = EngineOptions(
            budget_bytes=trial.cap_bytes or UNLIMITED_BYTES, direct=trial.direct, threads=trial.threads
        )
        with Engine(Path(trial.store), options) as engine:
            print(json.dumps({"idle_bytes": anonymous_share()}), flush=True)
            sys.stdin.readline()
            print(json.dumps(asdict(run_trial(engine, trial))), flush=True)
    except StiError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def run_trial(engine: Engine, trial: Trial) -> TrialResult:
    """Choose the plan, warm up (what stays is loaded, packings are learned), then measure the requests."""
    text = [_text(trial.sequence)]
    plan, predicted_ms = _plan(engine, trial, text)
    engine.answer(text, plan)
    reports = [engine.answer(text, plan).report for _ in range(trial.requests)]
    median = statistics.median_low(report.times.total_ms for report in reports)
    times = next(report.times for report in reports if report.times.total_ms == median)
    streamed = [layer for layer in plan.layers if layer.residency is Residency.STREAMED]
    preloaded = sum(layer.residency is Residency.PRELOADED for layer in plan.layers)
    footprint = engine.footprint(plan, trial.sequence, 1)
    stored = dict(zip(plan.layers, footprint.stored_bytes, strict=True))
    return TrialResult(
        times=times,
        all_ms=tuple(round(report.times.total_ms, 3) for report in reports),
        agents=plan.loading_agents,
        layers_in_flight=plan.most_in_flight,
        layers=len(plan.layers),
        resident_layers=len(plan.layers) - len(streamed) - preloaded,
        preloaded_layers=preloaded,
        predicted_ms=predicted_ms,
        predicted_bytes=footprint.peak_bytes(plan),
        accounted_bytes=max(report.model_peak_bytes for report in reports),
        read_bytes=sum(stored[layer] for layer in streamed),
    )


def _plan(engine: Engine, trial: Trial, text: Sequence[str]) -> tuple[Plan, float | None]:
    plan = engine.uniform_plan(trial.bits)
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    if trial.schedule is not Schedule.PIPELINED:
        return replace(plan, schedule=trial.schedule, loading_agents=trial.agents or 1), None
    if trial.cap_bytes is None:
        agents = trial.agents or 2
        return replace(plan, loading_agents=agents, layers_in_flight=agents + 1), None
    times = [measured_times(engine, plan, text)] * len(plan.layers)
    footprint = engine.footprint(plan, trial.sequence, 1)  # after the first pass, which shows what is written in place
    chosen = plan_exact(plan, footprint, trial.cap_bytes, times, agents=trial.agents)
    return chosen.plan, chosen.makespan_ms


def measured_times(engine: Engine, plan: Plan, text: Sequence[str]) -> LayerTimes:
    """What a layer takes here, as the mean over a pass: loading alone, executing beside loading if there is room."""
    alone = replace(plan, loading_agents=1, layers_in_flight=1)
    engine.answer(text, alone)
    times, layers = engine.answer(text, alone).report.times, len(plan.layers)
    beside = engine.answer(text, replace(alone, layers_in_flight=2)).report.times
    # A throttle lets reads pass that follow a pause: where execution waits for loading, that is the flash's true pace.
    loading_ms = beside.total_ms if beside.wait_ms > _WAITS * beside.total_ms else 0.0
    read_ms = max(times.read_ms, loading_ms - times.prepare_ms)
    return LayerTimes(read_ms / layers, times.prepare_ms / layers, beside.execute_ms / layers)


def _text(sequence: int) -> str:
    """Words enough to fill a sequence bucket, for tokenizers that make one token of each."""
    return _WORD * (sequence - 2)


if __name__ == "__main__":
    main()
