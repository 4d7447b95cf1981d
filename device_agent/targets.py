"""An engine's side of targets: the planner, what runs teach it, and what is to be in memory for the next request."""

from collections.abc import Callable
from contextlib import suppress

from device_agent.batches import Batch
from device_agent.costs import DeviceCosts
from device_agent.elastic import Elastic
from device_agent.fitting import Fitting
from device_agent.goal import Goal
from device_agent.loading import LayerSource
from device_agent.phases import PhaseTimes, Stopwatch
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.promise import Promise
from device_agent.runs import Run, TargetRuns
from device_agent.store_facts import check_profile, layer_memory, planned_bitwidths, store_facts
from shard_store.errors import BudgetError


class Targets:
    """Not thread-safe: the engine serialises."""

    def __init__(
        self, source: LayerSource, pipeline: Pipeline, fitting: Fitting, costs: Callable[[], DeviceCosts],
        loading_agents: int | None,
    ) -> None:  # fmt: skip
        """costs: this device's, asked for once; loading_agents: None where the planner decides."""
        self.bitwidths = planned_bitwidths(source.store.manifest)
        self.loading_agents = loading_agents
        self._source, self._pipeline, self._fitting = source, pipeline, fitting
        self._costs = costs
        self._manifest = source.store.manifest
        self._elastic: Elastic | None = None
        self._refused: frozenset[tuple[int, int]] = frozenset()  # by the executor, as the planner knows
        self._learned = False  # from runs, since plans were last made anew
        self._wanted: Pass | None = None  # what is to be in memory when there is time

    @property
    def elastic(self) -> Elastic:
        """The planner. Raises PlanError for a store without a profile; measures the device if need be."""
        executor = self._source.executor
        if self._elastic is None:
            check_profile(self._manifest)
            self._elastic = Elastic(store_facts(self._source.store, self._costs(), executor.in_place))
        elif self._refused != executor.refused:
            self._elastic.adopt(layer_memory(self._source.store, executor.in_place))
        self._refused = executor.refused
        return self._elastic

    def runs(self, watch: Stopwatch, texts: int, budget_bytes: int) -> TargetRuns:
        """For an answer of so many texts. Raises PlanError for a store without a profile."""
        return TargetRuns(
            self.elastic, self._pipeline, watch, texts, budget_bytes, self._fitting.fit, self.bitwidths,
            self.loading_agents,
        )  # fmt: skip

    def check_budget(self, budget_bytes: int) -> None:
        """Raise BudgetError for a budget that does not hold the smallest part of the model, streamed."""
        sequence = max(self._manifest.description.sequences)
        self.elastic.choose(Ask(sequence, budget_bytes, residency=False, bitwidths=self.bitwidths))

    def expect(self, goal: Goal, budget_bytes: int) -> None:
        """Load what a goal's plan keeps in memory. Raises PlanError or BudgetError if there is none."""
        runs = self.runs(Stopwatch(goal.target_ms), 1, budget_bytes)
        self._wanted = runs.choose(Batch(min(self._manifest.description.sequences), (0,), 1)).settled
        self.settle(lambda: False)

    def learn(self, run: Run, passed: PhaseTimes) -> None:
        """Follow up on a promise: correct the costs, and remember what the next run would like to find in memory."""
        self._learned = False
        if run.promise:
            self.observe(run.promise, passed, run.job.plan)
        self._wanted = run.settled if run.settled != run.job else None  # None also after a run by a given plan

    def observe(self, promise: Promise, passed: PhaseTimes, plan: Plan) -> None:
        """Correct the costs by a pass, from the next time on that nothing waits."""
        self.elastic.observe(promise.times, passed, plan)
        self._learned = True

    def want_nothing(self) -> None:
        """What was to be in memory has had its day."""
        self._wanted = None

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Load what the last plan for a target keeps in memory. False if interrupted; call again when there is time."""
        if self._learned and self.elastic.refresh(interrupted):
            self._wanted = self._latest_choice()
        self._learned = self._learned and self.elastic.renewing
        if self._learned:
            return False
        if self._wanted is None:
            return True
        done = self._pipeline.settle(self._wanted, interrupted)
        if done:
            self._wanted = None
        return done

    def _latest_choice(self) -> Pass | None:
        """What is to be in memory for the target that was asked last, if that can still be had.

        Nothing for a text that is generated: its own first step loads what stays, beside its cache.
        """
        ask = None if self._manifest.description.generation else self.elastic.latest
        with suppress(BudgetError):
            if ask:
                return self._fitting.fit(self.elastic.choose(ask).plan, ask.sequence, ask.texts, ask.budget_bytes)
        return None
