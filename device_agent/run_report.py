"""Sums up the passes of an answer."""

from collections.abc import Sequence

from device_agent.phases import PhaseTimes, Stopwatch
from device_agent.plan import Residency
from device_agent.process_memory import process_memory
from device_agent.promise import outcome_of
from device_agent.report import RunReport
from device_agent.runs import Run
from device_agent.text import Tokens


def report_of(
    runs: Sequence[Run], tokens: Sequence[Tokens], times: PhaseTimes, watch: Stopwatch, *,
    model_peak_bytes: int, executor: str,
) -> RunReport:  # fmt: skip
    """What ran for an answer that has just been finished."""
    jobs = [run.job for run in runs]
    last, promises = jobs[-1].plan, [run.promise for run in runs if run.promise]
    answer_ms = watch.elapsed_ms
    return RunReport(
        layers=len(last.layers),
        slices=last.slices,
        bits=last.bitwidths,
        resident_layers=min(sum(layer.residency is Residency.RESIDENT for layer in job.plan.layers) for job in jobs),
        tokens=sum(map(len, tokens)),
        sequences=tuple(sorted({job.sequence for job in jobs})),
        passes=len(jobs),
        times=times,
        answer_ms=answer_ms,
        budget_bytes=jobs[-1].budget_bytes,
        model_peak_bytes=model_peak_bytes,
        process_peak_bytes=process_memory().peak_resident_bytes,
        executor=executor,
        plans=tuple(job.plan for job in jobs),
        outcome=outcome_of(watch.target_ms, promises, answer_ms) if watch.limited else None,
    )
