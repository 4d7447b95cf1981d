"""One model, ready to answer: tokenise, embed, run the pipeline, apply the head, report what ran."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import cast

import numpy as np
import numpy.typing as npt

from device_agent.causal_model import CausalModel, Parts
from device_agent.completion import GenerateOptions
from device_agent.executor import Activations
from device_agent.generator import Generated, Generator
from device_agent.head import apply_head
from device_agent.image import open_encoder
from device_agent.inplace import ExecutorChoice, choose_executor
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import Footprint, Ledger, fit_residency, layer_footprint
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan, default_bitwidth, uniform_plan
from device_agent.process_memory import default_budget_bytes, process_memory, restart_peak
from device_agent.prompt import PromptEncoder
from device_agent.text import Encoder, Text, Tokens
from shard_store.errors import RequestError
from shard_store.manifest import Manifest
from shard_store.reader import ShardReader, Store

BATCH_TEXTS = 16  # texts that share one pass over the layers: one load serves them all
MAX_TEXTS = 2048
_PLANS_KEPT = 64  # plans whose footprint and residency are remembered


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How an engine runs. A budget of None takes a quarter of the memory that is available at the start."""

    budget_bytes: int | None = None
    threads: int = 1
    loading_agents: int = 1
    layers_in_flight: int = 2
    direct: bool | None = False  # read past the page cache; None: where the file system can
    throttle_bytes_per_s: float | None = None
    executor: ExecutorChoice = ExecutorChoice.AUTO


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
    budget_bytes: int
    model_peak_bytes: int
    process_peak_bytes: int
    executor: str = "constant"  # how streamed int8 layers ran


@dataclass(frozen=True, slots=True)
class Answer:
    """One output per input: an embedding (features,), logits (labels,) or (tokens, labels)."""

    outputs: tuple[npt.NDArray[np.float32], ...]
    tokens: tuple[Tokens, ...]
    report: RunReport


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
        self._source = LayerSource(self.store, self._reader, choose_executor(self.options.executor, self._runtime))
        self._tensors = self._source.resident_tensors
        self._encoder: Encoder = open_encoder(self.store, self._tensors)
        self._pipeline = Pipeline(self._source, self.ledger)
        self._fixed_bytes = sum(tensor.nbytes for tensor in self._tensors.values())
        self.ledger.add(self._fixed_bytes)
        self.footprint = lru_cache(_PLANS_KEPT)(self._footprint)
        self._fit = lru_cache(_PLANS_KEPT)(self._fit_to_budget)

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""
        return self.store.manifest

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        """A plan at one bitwidth, by default the whole model at the best lossless one. Raises PlanError."""
        return uniform_plan(
            self.manifest, default_bitwidth(self.manifest) if bits is None else bits, layers, slices,
            loading_agents=self.options.loading_agents, layers_in_flight=self.options.layers_in_flight,
        )  # fmt: skip

    def check(self, plan: Plan) -> None:
        """Raise PlanError for a plan that the store cannot run, BudgetError if its longest sequence does not fit."""
        plan.check(self.manifest)
        self._fit(plan, max(self.manifest.description.sequences), 1)

    def answer(
        self, inputs: Sequence[Text], plan: Plan | None = None, *,
        truncate: bool = False, cancelled: Callable[[], bool] = _never,
    ) -> Answer:  # fmt: skip
        """Answer a batch. Raises RequestError, PlanError, FormatError or Cancelled; the engine stays usable."""
        if not 1 <= len(inputs) <= MAX_TEXTS:
            raise RequestError(f"{len(inputs)} inputs, must be 1 to {MAX_TEXTS}")
        plan = plan or self.uniform_plan()
        plan.check(self.manifest)
        with self._lock:
            restart_peak()
            self.ledger.restart()
            tokens = self._encoder.tokenize(inputs, truncate)
            outputs: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(tokens)
            times, jobs = PhaseTimes(), []
            for sequence, members in self._batches(plan, tokens):
                job = self._fit(plan, sequence, len(members))
                times += self._run(job, members, tokens, outputs, cancelled)
                jobs.append(job)
            return Answer(tuple(outputs), tuple(tokens), self._report(jobs, tokens, times))

    def classify_images(
        self, images: Sequence[bytes], plan: Plan | None = None, *, cancelled: Callable[[], bool] = _never
    ) -> Answer:
        """Answer PNG or JPEG files, each with logits (labels,). Raises as `answer` does."""
        return self.answer(cast(Sequence[Text], images), plan, cancelled=cancelled)  # the encoder tells them apart

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

    @property
    def prompts(self) -> PromptEncoder:
        """The tokenizer of a model that generates text. Raises RequestError for any other model."""
        if not isinstance(self._encoder, PromptEncoder):
            raise RequestError(f"model {self.manifest.description.model} generates no text")
        return self._encoder

    @cached_property
    def generator(self) -> Generator:
        """For a caller that holds the engine alone. Raises RequestError for a model that generates no text."""
        parts = Parts(
            self._source, self._reader, self._pipeline, self._runtime, self.ledger, self.footprint,
            lambda: self.budget_bytes,
        )  # fmt: skip
        model = CausalModel(parts, self.prompts)
        self._closing.callback(model.close)
        generation = self.manifest.description.generation
        return Generator(model, self.prompts, generation.end_tokens if generation else ())

    def _batches(self, plan: Plan, tokens: Sequence[Tokens]) -> Iterator[tuple[int, list[int]]]:
        """Inputs of the same sequence bucket together, as many as the budget lets share a pass: (sequence, indices)."""
        buckets = [self._encoder.bucket(item) for item in tokens]
        for sequence, group in groupby(sorted(range(len(tokens)), key=buckets.__getitem__), key=buckets.__getitem__):
            members = list(group)
            texts = self._texts_per_pass(plan, sequence)
            for start in range(0, len(members), texts):
                yield sequence, members[start : start + texts]

    def _texts_per_pass(self, plan: Plan, sequence: int) -> int:
        """How many texts may share a pass without pushing layers out of memory that would stay for one text alone."""
        alone = self._fit(plan, sequence, 1).plan
        sizes = (BATCH_TEXTS >> halvings for halvings in range(BATCH_TEXTS.bit_length()))
        return next(texts for texts in sizes if texts == 1 or self._fits(alone, sequence, texts))

    def _fits(self, plan: Plan, sequence: int, texts: int) -> bool:
        return self.footprint(plan, sequence, texts).peak_bytes(plan) <= self.budget_bytes

    def _run(
        self, job: Pass, members: Sequence[int], tokens: Sequence[Tokens],
        outputs: list[npt.NDArray[np.float32]], cancelled: Callable[[], bool],
    ) -> PhaseTimes:  # fmt: skip
        self._pipeline.make_room(job)  # before the pass takes its first byte
        with self.ledger.holding(job.footprint.activation_bytes):
            batch = [Activations(self._runtime, job.sequence, self.manifest.geometry.hidden) for _ in members]
            try:
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

    def _fit_to_budget(self, plan: Plan, sequence: int, texts: int) -> Pass:
        footprint = self.footprint(plan, sequence, texts)
        return Pass(fit_residency(plan, footprint, self.budget_bytes), sequence, footprint, self.budget_bytes)

    def _footprint(self, plan: Plan, sequence: int, texts: int) -> Footprint:
        """What a pass of `texts` texts would cost in memory."""
        geometry = self.manifest.geometry
        layers = tuple(layer_footprint(self._source.template(layer, sequence), geometry) for layer in plan.layers)
        return Footprint(
            fixed_bytes=self._fixed_bytes,
            activation_bytes=texts * 4 * (2 * sequence * geometry.hidden + sequence),
            agent_bytes=self._source.agent_bytes,
            layers=layers,
            stored_bytes=tuple(self._reader.buffer_bytes(layer.shards()) for layer in plan.layers),
        )

    def _report(self, jobs: Sequence[Pass], tokens: Sequence[Tokens], times: PhaseTimes) -> RunReport:
        plan = jobs[-1].plan
        return RunReport(
            layers=len(plan.layers),
            slices=plan.slices,
            bits=plan.bitwidths,
            resident_layers=min(sum(layer.residency == "resident" for layer in job.plan.layers) for job in jobs),
            tokens=sum(map(len, tokens)),
            sequences=tuple(sorted({job.sequence for job in jobs})),
            passes=len(jobs),
            times=times,
            budget_bytes=self.budget_bytes,
            model_peak_bytes=self.ledger.peak_bytes,
            process_peak_bytes=process_memory().peak_resident_bytes,
            executor=self._source.executor.name,
        )

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
