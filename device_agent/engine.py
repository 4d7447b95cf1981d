"""One model, ready to answer: tokenise, embed, run the pipeline, apply the head, report what ran."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from threading import Lock
from types import TracebackType
from typing import cast

import numpy as np
import numpy.typing as npt

from device_agent.batches import Batch, batches
from device_agent.causal_model import CausalModel, Parts
from device_agent.completion import GenerateOptions
from device_agent.costing.decode_step import DecodeStep
from device_agent.costing.known import known_costs
from device_agent.costing.measure import Progress, measure_costs
from device_agent.costing.trials import REST_S, EngineTrials
from device_agent.costs import DeviceCosts
from device_agent.draft import DEFAULT_DRAFTS
from device_agent.elastic import Elastic
from device_agent.executor import Activations
from device_agent.fitting import Fitting
from device_agent.generator import Generated, Generator
from device_agent.goal import NO_GOAL, Goal
from device_agent.head import apply_head
from device_agent.image import open_encoder
from device_agent.inplace import ExecutorChoice, choose_executor
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import MIB, RUNNING_BYTES, Footprint, Ledger
from device_agent.pace import Pace
from device_agent.phases import PhaseTimes, Stopwatch
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan, Residency, default_bitwidth, uniform_plan
from device_agent.planning.ask import Ask
from device_agent.process_memory import default_budget_bytes, restart_peak
from device_agent.prompt import PromptEncoder
from device_agent.report import Answer
from device_agent.run_report import report_of
from device_agent.runs import PlannedRuns, Run, Runs, TargetRuns
from device_agent.store_facts import check_profile, layer_memory, planned_bitwidths, store_facts
from device_agent.text import Encoder, Text, Tokens
from device_agent.text_run import TextRun, yielding
from shard_store.errors import BudgetError, RequestError
from shard_store.manifest import Manifest
from shard_store.reader import ShardReader, Store

logger = logging.getLogger(__name__)
_OVERHEAD_REPEATS = 5
_CAPACITY_STEP = 64  # tokens that a text's cache is planned for are rounded up to, so that plans repeat
MAX_TEXTS = 2048


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. A budget of None takes a quarter of the memory that is available at the start."""

    budget_bytes: int | None = None
    threads: int = 1
    loading_agents: int | None = None  # None: the planner decides; 1 without a target
    layers_in_flight: int = 2  # without a target
    direct: bool | None = False  # read past the page cache; None: where the file system can
    throttle_bytes_per_s: float | None = None
    slowdown: float = 1.0  # of the processor, emulated
    most_drafts: int = DEFAULT_DRAFTS  # tokens that are guessed in a step of generated texts; 0: none
    executor: ExecutorChoice = ExecutorChoice.AUTO
    plan_agents: bool = False  # for plans that leave residency open: agents, layers in flight and what to keep
    costs_path: Path | None = None  # where this device's costs are kept; None: measured anew by every engine


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
        self._closing = ExitStack()
        self._lock = Lock()
        self._runtime = Runtime(self.options.threads)
        self._reader = ShardReader(self.store, self.options.direct, self.options.throttle_bytes_per_s)
        self._pace = Pace(self.options.slowdown)
        executor = choose_executor(self.options.executor, self._runtime)
        self._source = LayerSource(self.store, self._reader, executor, self._pace)
        self._tensors = self._source.resident_tensors
        self._encoder: Encoder = open_encoder(self.store, self._tensors)
        self._pipeline = Pipeline(self._source, self.ledger)
        self._fixed_bytes = RUNNING_BYTES + sum(tensor.nbytes for tensor in self._tensors.values())
        self.ledger.add(self._fixed_bytes)
        costs = (lambda: self.costs) if self.options.plan_agents else None
        self._fitting = Fitting(self._source, self._fixed_bytes, self.options.threads, costs)
        self._elastic: Elastic | None = None
        self._refused: frozenset[tuple[int, int]] = frozenset()  # as the planner knows
        self._learned = False  # from runs, since plans were last made anew
        self._bitwidths = planned_bitwidths(self.manifest)
        self._wanted: Pass | None = None  # what is to be in memory when there is time

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
            self._pipeline.shrink(budget_bytes)
            if "generator" in vars(self):
                self.generator.model.trim()
            self._wanted = None

    def _check_budget(self, budget_bytes: int) -> None:
        sequence = max(self.manifest.description.sequences)
        if self.manifest.profile is None:
            self._fitting.fit(self.uniform_plan(), sequence, 1, budget_bytes)
        else:
            self.elastic.choose(Ask(sequence, budget_bytes, residency=False, bitwidths=self._bitwidths))

    @property
    def elastic(self) -> Elastic:
        """The planner for targets. Raises PlanError for a store without a profile; measures the device if need be."""
        executor = self._source.executor
        if self._elastic is None:
            check_profile(self.manifest)
            self._elastic = Elastic(store_facts(self.store, self.costs, executor.in_place))
        elif self._refused != executor.refused:
            self._elastic.adopt(layer_memory(self.store, executor.in_place))
        self._refused = executor.refused
        return self._elastic

    @cached_property
    def costs(self) -> DeviceCosts:
        """This device's, from the file that the options name; measured, which takes seconds, where there is none."""
        return known_costs(self.options.costs_path, self.trials(), _log_progress)

    def trials(self) -> EngineTrials:
        """For measuring this device."""
        if isinstance(self._encoder, PromptEncoder):
            step = DecodeStep(self.generator.model, self._parts, self._encoder)
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
            self.text_run(goal.target_ms, 1)
            return
        if plan is None and goal.target_ms is not None:
            runs = self._chooser(None, goal, Stopwatch(goal.target_ms), 1)
            self._wanted = runs.choose(Batch(min(self.manifest.description.sequences), (0,), 1)).settled
            self.settle(_never)
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
        with self._pace.kept():
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
            self._learn(run, replace(passed, outside_ms=outside_ms))
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
            return self.generator.generate(self.prompts.encode(prompt), options, plan, cancelled, tell)

    def text_run(self, target_ms: float, tokens: int) -> TextRun:
        """The best plan for a text of `tokens` tokens, prompt and answer; for a caller that holds the engine alone.

        target_ms: of a step that makes one token, for a text alone, once the layers that stay are in memory.
        Raises PlanError without a profile, and BudgetError with the numbers.
        """
        capacity = -(-tokens // _CAPACITY_STEP) * _CAPACITY_STEP
        room_bytes = self.generator.model.room_bytes(capacity)
        taken_bytes = self.budget_bytes - room_bytes
        ask = Ask(
            min(self.manifest.description.sequences), room_bytes, target_ms=target_ms,
            loading_agents=self.options.loading_agents, bitwidths=self._bitwidths,
        )  # fmt: skip
        try:
            decision = self.elastic.decide(ask, lambda plan: frozenset(layer.layer for layer in plan.layers))
        except BudgetError as error:
            raise BudgetError(
                f"{error}, beside {taken_bytes / MIB:.1f} MiB for KV caches, this one of {capacity} tokens; ask for "
                "fewer tokens or raise --memory-mb"
            ) from error
        peak_bytes = decision.promise.predicted_peak_bytes + taken_bytes
        return TextRun(yielding(decision.plan), target_ms, replace(decision.promise, predicted_peak_bytes=peak_bytes))

    def observe_text(self, run: TextRun, times: PhaseTimes) -> None:
        """Learn from a typical step of a text that had a target; used from the next time on that nothing waits."""
        self.elastic.observe(run.promise.times, times, run.plan.loading_agents)
        self._learned = True

    @property
    def prompts(self) -> PromptEncoder:
        """The tokenizer of a model that generates text. Raises RequestError for any other model."""
        if not isinstance(self._encoder, PromptEncoder):
            raise RequestError(f"model {self.manifest.description.model} generates no text")
        return self._encoder

    @cached_property
    def generator(self) -> Generator:
        """For a caller that holds the engine alone. Raises RequestError for a model that generates no text."""
        model = CausalModel(self._parts, self.prompts)
        self._closing.callback(model.close)
        generation = self.manifest.description.generation
        ends = generation.end_tokens if generation else ()
        return Generator(model, self.prompts, ends, self.options.most_drafts)

    @property
    def _parts(self) -> Parts:
        return Parts(
            self._source, self._reader, self._pipeline, self._runtime, self.ledger, self.footprint,
            lambda: self.budget_bytes,
        )  # fmt: skip

    def _run(
        self, job: Pass, members: Sequence[int], tokens: Sequence[Tokens],
        outputs: list[npt.NDArray[np.float32]], cancelled: Callable[[], bool],
    ) -> PhaseTimes:  # fmt: skip
        self._pipeline.make_room(job)  # before the pass takes its first byte
        with self.ledger.holding(job.footprint.activation_bytes):
            batch = [Activations(self._runtime, job.sequence, self.manifest.geometry.hidden) for _ in members]
            try:
                with self._pace.kept():
                    for index, activations in zip(members, batch, strict=True):
                        self._encoder.embed(tokens[index], activations)
                times = self._pipeline.run(job, batch, cancelled)
                for index, activations in zip(members, batch, strict=True):
                    hidden = activations.hidden[: len(tokens[index])]
                    outputs[index] = apply_head(
                        hidden, self.manifest.description.head, self._tensors, self.manifest.geometry
                    )
            finally:
                for activations in batch:
                    activations.close()
        return times

    def _chooser(self, plan: Plan | None, goal: Goal, watch: Stopwatch, texts: int) -> Runs:
        budget_bytes = self._budget_of(goal)
        if plan is None and (goal.target_ms is not None or not self._whole_fits(budget_bytes)):
            agents = self.options.loading_agents
            return TargetRuns(
                self.elastic,
                self._pipeline,
                watch,
                texts,
                budget_bytes,
                self._fitting.fit,
                self._bitwidths,
                agents,
            )
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

    def _learn(self, run: Run, passed: PhaseTimes) -> None:
        """Follow up on a promise: correct the costs, and remember what the next run would like to find in memory."""
        if run.promise:
            self.elastic.observe(run.promise.times, passed, run.job.plan.loading_agents)
        self._learned = run.promise is not None
        self._wanted = run.settled if run.settled != run.job else None  # None also after a run by a given plan

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        """Load what the last plan for a target keeps in memory. False if interrupted; call again when there is time."""
        with self._lock:
            if self._learned and self.elastic.refresh():
                self._wanted = self._latest_choice()
            self._learned = False
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
        ask = None if isinstance(self._encoder, PromptEncoder) else self.elastic.latest
        with suppress(BudgetError):
            if ask:
                return self._fitting.fit(self.elastic.choose(ask).plan, ask.sequence, ask.texts, ask.budget_bytes)
        return None

    def footprint(self, plan: Plan, sequence: int, texts: int) -> Footprint:
        """What a pass of `texts` texts would cost in memory, as far as is known now."""
        return self._fitting.footprint(plan, sequence, texts)

    def close(self) -> None:
        """Free everything that the model holds, and close the store."""
        with self._lock:
            self._closing.close()
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
