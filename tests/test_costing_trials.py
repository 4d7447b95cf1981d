"""Timed passes of a real engine."""

from collections.abc import Callable
from pathlib import Path

from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.plan import Residency


def test_a_streamed_trial_reads_also_what_an_earlier_trial_kept(golden_store: Callable[[str], Path]) -> None:
    with Engine(golden_store("bert-sequence"), EngineOptions(budget_bytes=64 << 20)) as engine:
        plan, trials = engine.uniform_plan(8), engine.trials()
        count = len(plan.layers)
        trials.trial(plan.with_residency([Residency.RESIDENT] * count), 16)
        kept = trials.trial(plan.with_residency([Residency.RESIDENT] * count), 16)
        streamed = trials.trial(plan.with_residency([Residency.STREAMED] * count), 16, cold=True)
    assert kept.read_ms == 0
    assert streamed.read_ms > 0
    assert streamed.prepare_ms > 0
