"""Which pass to run for each batch of an answer: by a given plan, or by the planner for a target."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from device_agent.batches import Batch, halvings
from device_agent.elastic import Elastic
from device_agent.phases import Stopwatch
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.promise import Promise
from shard_store.errors import BudgetError

Fit = Callable[[Plan, int, int, int], Pass]  # plan, sequence, texts, budget in bytes; raises BudgetError
_LEAST_MS = 0.05  # for a batch whose time is up already


@dataclass(frozen=True, slots=True)
class Run:
    """One pass, what is promised of it, and what should be in memory for the next one like it."""

    job: Pass
    promise: Promise | None = None
    settled: Pass | None = None


class Runs(Protocol):
    """Where the passes of one answer come from."""

    def texts_per_pass(self, sequence: int, texts: int) -> int:
        """How many of so many texts share a pass."""
        ...

    def choose(self, batch: Batch) -> Run:
        """The pass for a batch. Raises BudgetError."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedRuns:
    """The same plan for every batch; its residency as the budget allows."""

    plan: Plan
    budget_bytes: int
    fit: Fit

    def texts_per_pass(self, sequence: int, texts: int) -> int:
        """As many as do not push layers out of memory that would stay for one text alone."""
        alone = self.fit(self.plan, sequence, 1, self.budget_bytes).plan
        return next(size for size in halvings(texts) if size == 1 or self._fits(alone, sequence, size))

    def _fits(self, plan: Plan, sequence: int, texts: int) -> bool:
        try:
            return self.fit(plan, sequence, texts, self.budget_bytes).plan == plan
        except BudgetError:
            return False

    def choose(self, batch: Batch) -> Run:
        """The plan, fitted."""
        return Run(self.fit(self.plan, batch.sequence, len(batch.members), self.budget_bytes))


@dataclass(frozen=True, slots=True)
class TargetRuns:
    """For every batch the best plan for its share of the time that is left, or for endless time."""

    elastic: Elastic
    pipeline: Pipeline
    watch: Stopwatch
    texts: int  # of the whole answer
    budget_bytes: int
    fit: Fit
    bitwidths: tuple[int, ...]  # to choose from
    loading_agents: int | None = None

    def texts_per_pass(self, sequence: int, texts: int) -> int:
        """As many as the budget has room for."""
        for size in halvings(texts):
            try:
                self.elastic.choose(self._ask(sequence, size, self.watch.target_ms))
            except BudgetError:
                if size == 1:
                    raise
            else:
                return size
        return 1

    def choose(self, batch: Batch) -> Run:
        """What the planner decides, given what is in memory."""
        texts = len(batch.members)
        ask = self._ask(batch.sequence, texts, self._share_ms(batch))
        decision = self.elastic.decide(ask, lambda plan: self.pipeline.present(plan, batch.sequence))
        job, settled = (
            self.fit(plan, batch.sequence, texts, self.budget_bytes) for plan in (decision.plan, decision.settled)
        )
        there = self.pipeline.present(job.plan, batch.sequence)
        peak_bytes = job.footprint.peak_bytes(job.plan, there) + self.pipeline.idle_bytes(job)
        held_bytes = max(self.pipeline.held_bytes, peak_bytes)  # what earlier runs left, until this one makes room
        return Run(job, replace(decision.promise, predicted_peak_bytes=held_bytes), settled)

    def _share_ms(self, batch: Batch) -> float:
        """An even share of what is left, rounded so that plans repeat; an answer of one pass has the whole target."""
        if len(batch.members) == self.texts or not self.watch.limited:
            return self.watch.target_ms
        share_ms = self.watch.left_ms * len(batch.members) / batch.texts_left
        return max(_LEAST_MS, float(f"{share_ms:.2g}"))

    def _ask(self, sequence: int, texts: int, target_ms: float) -> Ask:
        target = target_ms if self.watch.limited else None
        return Ask(
            sequence, self.budget_bytes, target_ms=target, texts=texts, loading_agents=self.loading_agents,
            bitwidths=self.bitwidths,
        )  # fmt: skip
