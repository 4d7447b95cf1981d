"""One model, ready to answer: tokenise, embed, run the pipeline, apply the head, report what ran."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from threading import Lock
from types import TracebackType
from typing import cast

import numpy as np
import numpy.typing as npt

from device_agent.activations_pool import ActivationsPool
from device_agent.batches import batches
from device_agent.causal_model import Parts
from device_agent.completion import GenerateOptions
from device_agent.costing.known import known_costs
from device_agent.costing.measure import Progress, measure_costs
from device_agent.costing.trials import REST_S, EngineTrials
from device_agent.costs import DeviceCosts
from device_agent.elastic import Elastic
from device_agent.engine_options import EngineOptions
from device_agent.executor import Activations
from device_agent.fitting import Fitting
from device_agent.generator import Generated
from device_agent.goal import NO_GOAL, Goal
from device_agent.head import apply_head
from device_agent.image import open_encoder
from device_agent.inplace import choose_executor
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import MIB, RUNNING_BYTES, Footprint, Ledger
from device_agent.pace import Pace
from device_agent.phases import PhaseTimes, Stopwatch
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan, Residency, default_bitwidth, uniform_plan
from device_agent.process_memory import default_budget_bytes, restart_peak
from device_agent.prompt import PromptEncoder
from device_agent.report import Answer
from device_agent.run_report import report_of
from device_agent.runs import PlannedRuns, Run, Runs
from device_agent.targets import Targets
from device_agent.text import Encoder, Text, Tokens
from device_agent.texts import Texts
from shard_store.errors import BudgetError, RequestError
from shard_store.manifest import Manifest
from shard_store.reader import ShardReader, Store

logger = logging.getLogger(__name__)
_OVERHEAD_REPEATS = 5
MAX_TEXTS = 2048


def _log_progress(what: str, done: int, total: int) -> None:
    logger.info("measuring this device: %s (%d of %d)", what, done, total)


_GREEDY = GenerateOptions()


def _never() -> bool:
    return False


def _ignore(_piece: str) -> None:
    """Nobody listens."""


class Engine:
    """Answers with one store's model. Thread-safe: one answer at a time."""

    def __init__(self, store_path: Path, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.store = Store.open(store_path)
        self.budget_bytes = self.options.budget_bytes or default_budget_bytes()
        self.ledger = Ledger()
        self._lock = Lock()
        self._runtime = Runtime(self.options.threads)
        self._reader = ShardReader(self.store, self.options.direct, self.options.throttle_bytes_per_s)
        self._pace = Pace(self.options.slowdown)
        executor = choose_executor(self.options.executor, self._runtime)
        self._source = LayerSource(self.store, self._reader, executor, self._pace)
        self._tensors = self._source.resident_tensors
        self._encoder: Encoder = open_encoder(self.store, self._tensors)
        self._pipeline = Pipeline(self._source, self.ledger)
        self._activations = ActivationsPool(self._runtime, self.manifest.geometry.hidden, self.ledger)
        self._fixed_bytes = RUNNING_BYTES + sum(tensor.nbytes for tensor in self._tensors.values())
        self.ledger.add(self._fixed_bytes)
        costs = (lambda: self.costs) if self.options.plan_agents else None
        self._fitting = Fitting(self._source, self._fixed_bytes, self.options.threads, costs)
        agents = self.options.loading_agents
        self.targets = Targets(self._source, self._pipeline, self._fitting, lambda: self.costs, agents)
        parts = Parts(
            self._source, self._reader, self._pipeline, self._runtime, self.ledger, self.footprint,
            lambda: self.budget_bytes,
        )  # fmt: skip
        self.texts = Texts(parts, self._encoder, self.targets, self.options.most_drafts)

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""
        return self.store.manifest

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        """A plan at one bitwidth, by default the whole model at the best lossless one. Raises PlanError."""
        return uniform_plan(
            self.manifest, default_bitwidth(self.manifest) if bits is None else bits, layers, slices,
            loading_agents=self.options.loading_agents or 1, layers_in_flight=self.options.layers_in_flight,
        )  # fmt: skip

    def check(self, plan: Plan) -> None:
        """Raise PlanError for a plan that the store cannot run, BudgetError if its longest sequence does not fit."""
        plan.check(self.manifest)
        self._fitting.fit(plan, max(self.manifest.description.sequences), 1, self.budget_bytes)

    def set_budget(self, budget_bytes: int) -> None:
        """Change the memory budget; what no longer fits is freed at once. Raises BudgetError, and all stays as it was.

        A budget must hold the whole model streamed, or, with a profile, the smallest part of it.
        """
        with self._lock:
            self._check_budget(budget_bytes)
            self.budget_bytes = budget_bytes
            self._activations.clear()
            self._pipeline.shrink(budget_bytes)
            self.texts.trim()
            self.targets.want_nothing()

    def _check_budget(self, budget_bytes: int) -> None:
        if self.manifest.profile is None:
            self._fitting.fit(self.uniform_plan(), max(self.manifest.description.sequences), 1, budget_bytes)
        else:
            self.targets.check_budget(budget_bytes)

    @property
    def elastic(self) -> Elastic:
        """The planner for targets. Raises PlanError for a store without a profile; measures the device if need be."""
        return self.targets.elastic

    @cached_property
    def costs(self) -> DeviceCosts:
        """This device's, from the file that the options name; measured, which takes seconds, where there is none."""
        return known_costs(self.options.costs_path, self.trials(), _log_progress)

    def trials(self) -> EngineTrials:
        """For measuring this device."""
        if isinstance(self._encoder, PromptEncoder):
            step = self.texts.steps()
            return EngineTrials(
                self._source, self._pipeline, threads=self.options.threads,
                fit=step.fit, overhead_ms=step.overhead_ms, passenger=step.passenger, rest_s=0.0,  # steps have none
            )  # fmt: skip
        return EngineTrials(
            self._source, self._pipeline, threads=self.options.threads,
            fit=lambda plan, sequence: self._fitting.fit(plan, sequence, 1, self.budget_bytes),
            overhead_ms=self._overhead_ms, passenger=self._empty_activations,
        )  # fmt: skip

    def _empty_activations(self, _plan: Plan, sequence: int) -> Activations:
        activations = Activations(self._runtime, sequence, self.manifest.geometry.hidden)
        activations.hidden[:] = 0.0
        activations.mask.array[:] = 0.0
        return activations

    def calibrate(self, progress: Progress) -> DeviceCosts:
        """Measure this device's costs with the store's model."""
        with self._lock:
            return measure_costs(self.trials(), progress)

    def _overhead_ms(self) -> float:
        """Time of an answer beyond its passes: tokenising, embedding, the head, the report."""
        least = self.uniform_plan(min(self.manifest.bitwidths), layers=1, slices=1).with_residency([Residency.STREAMED])
        taken = []
        sample = cast(Text, self._encoder.sample)  # an image, where those are what is answered
        for _ in range(1 + _OVERHEAD_REPEATS):
            time.sleep(REST_S)
            report = self._answer([sample], least, NO_GOAL, truncate=True, cancelled=_never).report
            taken.append(report.answer_ms - report.times.total_ms)
        return median(taken[1:])

    def ready(self, plan: Plan | None, goal: Goal) -> None:
        """Prepare for requests that say nothing of their own. Raises PlanError if they could not be answered."""
        if plan is None and goal.target_ms is not None and isinstance(self._encoder, PromptEncoder):
            self.texts.run(goal.target_ms, 1)
            return
        if plan is None and goal.target_ms is not None:
            self.targets.expect(goal, self._budget_of(goal))
            return
        self.check(plan or self.uniform_plan())
        if self.options.costs_path and self.manifest.profile:
            logger.info("costs of %s", self.elastic.costs.device)  # measured now, not by the first request

    def answer(
        self, inputs: Sequence[Text], plan: Plan | None = None, *,
        goal: Goal = NO_GOAL, truncate: bool = False, cancelled: Callable[[], bool] = _never,
    ) -> Answer:  # fmt: skip
        """Answer a batch: by a plan, or in time for a goal's target, or with as much of the model as memory holds.

        Raises RequestError, PlanError, FormatError or Cancelled; the engine stays usable.
        """
        if not 1 <= len(inputs) <= MAX_TEXTS:
            raise RequestError(f"{len(inputs)} inputs, must be 1 to {MAX_TEXTS}")
        with self._lock:
            return self._answer(inputs, plan, goal, truncate=truncate, cancelled=cancelled)

    def _answer(
        self, inputs: Sequence[Text], plan: Plan | None, goal: Goal, *, truncate: bool, cancelled: Callable[[], bool]
    ) -> Answer:
        """The main flow of a request; the caller holds the lock."""
        watch = Stopwatch(goal.target_ms)
        restart_peak()
        self.ledger.restart()
        chooser = self._chooser(plan, goal, watch, len(inputs))
        with self._pace.kept(("tokenize", len(inputs))):
            tokens = self._encoder.tokenize(inputs, truncate)
        outputs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
        runs: list[Run] = []
        passes: list[PhaseTimes] = []
        for batch in batches([self._encoder.bucket(item) for item in tokens], chooser.texts_per_pass):
            runs.append(chooser.choose(batch))
            passes.append(self._run(runs[-1].job, batch.members, tokens, outputs, cancelled))
        times = sum(passes, PhaseTimes())
        report = report_of(
            runs, tokens, times, watch,
            model_peak_bytes=self.ledger.peak_bytes, executor=self._source.executor.name,
        )  # fmt: skip
        outside_ms = (report.answer_ms - times.total_ms) / len(passes)
        for run, passed in zip(runs, passes, strict=True):
            self.targets.learn(run, replace(passed, outside_ms=outside_ms))
        return Answer(tuple(outputs), tuple(tokens), report)

    def classify_images(
        self, images: Sequence[bytes], plan: Plan | None = None, *,
        goal: Goal = NO_GOAL, cancelled: Callable[[], bool] = _never,
    ) -> Answer:  # fmt: skip
        """Answer PNG or JPEG files, each with logits (labels,). Raises as `answer` does."""
        inputs = cast(Sequence[Text], images)  # the encoder tells them apart
        return self.answer(inputs, plan, goal=goal, cancelled=cancelled)

    def generate(
        self, prompt: str, options: GenerateOptions = _GREEDY, plan: Plan | None = None, *,
        cancelled: Callable[[], bool] = _never, tell: Callable[[str], None] = _ignore,
    ) -> Generated:  # fmt: skip
        """Continue a prompt; `tell` gets the text piece by piece. Raises as `answer` does, and BudgetError."""
        plan = plan or self.uniform_plan()
        plan.check(self.manifest)
        with self._lock:
            restart_peak()
            self.ledger.restart()
            return self.texts.generator.generate(self.texts.prompts.encode(prompt), options, plan, cancelled, tell)

    def _run(
        self, job: Pass, members: Sequence[int], tokens: Sequence[Tokens],
        outputs: list[npt.NDArray[np.float32]], cancelled: Callable[[], bool],
    ) -> PhaseTimes:  # fmt: skip
        self._pipeline.make_room(job)  # before the pass takes its first byte
        with self._activations.batch(job.sequence, len(members), job.footprint.activation_bytes) as batch:
            with self._pace.kept(("embed", job.sequence, len(batch))):
                for index, activations in zip(members, batch, strict=True):
                    self._encoder.embed(tokens[index], activations)
            times = self._pipeline.run(job, batch, cancelled)
            for index, activations in zip(members, batch, strict=True):
                hidden = activations.hidden[: len(tokens[index])]
                outputs[index] = apply_head(
                    hidden, self.manifest.description.head, self._tensors, self.manifest.geometry
                )
        return times

    def _chooser(self, plan: Plan | None, goal: Goal, watch: Stopwatch, texts: int) -> Runs:
        budget_bytes = self._budget_of(goal)
        if plan is None and (goal.target_ms is not None or not self._whole_fits(budget_bytes)):
            return self.targets.runs(watch, texts, budget_bytes)
        plan = plan or self.uniform_plan()
        plan.check(self.manifest)
        return PlannedRuns(plan, budget_bytes, self._fitting.fit)

    def _whole_fits(self, budget_bytes: int) -> bool:
        """Whether the whole model can run; without a profile there is nothing else, and the run will say so."""
        try:
            self._fitting.fit(self.uniform_plan(), max(self.manifest.description.sequences), 1, budget_bytes)
        except BudgetError:
            return self.manifest.profile is None
        return True

    def _budget_of(self, goal: Goal) -> int:
        if goal.memory_bytes is not None and goal.memory_bytes > self.budget_bytes:
            raise RequestError(
                f"memory_mb: {goal.memory_bytes / MIB:g} asked, the agent has {self.budget_bytes / MIB:g}; "
                "ask for less or raise its budget"
            )
        return goal.memory_bytes or self.budget_bytes

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Load what the last plan for a target keeps in memory. False if interrupted; call again when there is time."""
        with self._lock:
            return self.targets.settle(interrupted)

    def footprint(self, plan: Plan, sequence: int, texts: int) -> Footprint:
        """What a pass of `texts` texts would cost in memory, as far as is known now."""
        return self._fitting.footprint(plan, sequence, texts)

    def close(self) -> None:
        """Free everything that the model holds, and close the store."""
        with self._lock:
            self.texts.close()
            self._activations.clear()
            self._pipeline.close()
            self._runtime.close()
            self._reader.close()
            self.store.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
