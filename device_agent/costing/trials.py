"""Timed passes of an engine over activations that hold nothing."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from device_agent.costing.measure import device_name
from device_agent.executor import Activations
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import LayerPlan, Plan
from shard_store.errors import BudgetError
from shard_store.manifest import Manifest

REST_S = 0.02  # requests seldom follow each other at once, and what rests is slower: caches, clocks, wakened threads


class EngineTrials:
    """What `measure_costs` needs of an engine. fit: a plan at a sequence as a pass within the budget."""

    def __init__(
        self, source: LayerSource, pipeline: Pipeline, runtime: Runtime, *, threads: int,
        fit: Callable[[Plan, int], Pass], overhead_ms: Callable[[], float],
    ) -> None:  # fmt: skip
        self._source = source
        self._pipeline = pipeline
        self._runtime = runtime
        self._threads = threads
        self._fit = fit
        self.overhead_ms = overhead_ms

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""
        return self._source.store.manifest

    @property
    def device(self) -> str:
        """Machine, processor, runtime and threads."""
        return device_name(f"{_runtime_name()}, {self._threads} threads")

    def trial(self, plan: Plan, sequence: int, *, cold: bool = False) -> PhaseTimes:
        """One pass of one text, after a rest, as between requests. Raises BudgetError.

        cold: the store's files are dropped from the page cache first.
        """
        job = self._fit(plan, sequence)
        # With no more memory than it needs, so that it finds nothing there that an earlier trial brought.
        job = replace(job, budget_bytes=job.footprint.peak_bytes(job.plan))
        if cold:
            self._source.store.drop_page_cache()
        self._pipeline.make_room(job)
        time.sleep(REST_S)
        with closing(Activations(self._runtime, sequence, self.manifest.geometry.hidden)) as activations:
            activations.hidden[:] = 0.0
            activations.mask.array[:] = 0.0
            return self._pipeline.run(job, [activations], lambda: False)

    def read_sizes(self, layer: LayerPlan) -> tuple[int, int]:
        """How many reads fetch the layer, and how many bytes in all."""
        reads = self._source.reads(layer)
        return len(reads), sum(self._source.reader.buffer_bytes(keys) for keys in reads)

    def resident_layers(self, plan: Plan, sequence: int) -> int:
        """How many of the plan's layers the budget holds ready to run."""
        for count in range(len(plan.layers), 0, -1):
            try:
                self._fit(Plan(plan.layers[:count]), sequence)
            except BudgetError:
                continue
            return count
        return 0


def _runtime_name() -> str:
    for name in ("ai-edge-litert", "tflite-runtime"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "unknown runtime"
