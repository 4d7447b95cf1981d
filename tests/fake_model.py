"""A model without weights for tests of what surrounds one: answers at once, on command, or with an error."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

import numpy as np
import numpy.typing as npt

from device_agent.answers import embedding_size
from device_agent.goal import NO_GOAL, Goal
from device_agent.memory import Ledger
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Cancelled
from device_agent.plan import Plan, uniform_plan
from device_agent.promise import Outcome
from device_agent.report import Answer, RunReport
from device_agent.text import Text, Tokens
from device_agent.texts import Texts
from shard_store.errors import BudgetError, RequestError
from shard_store.head import Head, HeadKind, Scores
from shard_store.manifest import Manifest


def with_head(
    manifest: Manifest, kind: HeadKind, labels: Sequence[str] = (), scores: Scores = Scores.SOFTMAX
) -> Manifest:
    """The manifest of a small store with another head: 24 features, or any number of labels."""
    resident, old = dict(manifest.resident), manifest.description.head
    layers = old.layers[:1] if kind is HeadKind.EMBEDDING else old.layers
    if labels:
        weight, bias = old.layers[-1].weight, old.layers[-1].bias
        resident[weight] = replace(resident[weight], shape=(len(labels), 24))
        resident[bias] = replace(resident[bias], shape=(len(labels),))
    head = Head(kind, old.pooling, kind is HeadKind.EMBEDDING, tuple(labels), layers, scores)
    return replace(manifest, description=replace(manifest.description, head=head), resident=resident)


def fake_tokens(text: Text) -> Tokens:
    """One token per word."""
    joined = text if isinstance(text, str) else " ".join(text)
    words = joined.split()
    spans = [(joined.index(word), joined.index(word) + len(word)) for word in words]
    numbers = np.arange(len(words))
    return Tokens(numbers, numbers, tuple(words), tuple(spans))


@dataclass(frozen=True, slots=True)
class Call:
    """What `answer` was asked."""

    inputs: tuple[Text, ...]
    plan: Plan
    truncate: bool
    goal: Goal = NO_GOAL


@dataclass
class FakeModel:
    """Stands where an Engine does. Set `failure` to raise, `hold` to make answers wait for `release` or a cancel."""

    manifest: Manifest
    failure: Exception | None = None
    hold: bool = False
    budget_bytes: int = 1000
    ledger: Ledger = field(default_factory=Ledger)
    calls: list[Call] = field(default_factory=list)
    begun: Event = field(default_factory=Event)
    release: Event = field(default_factory=Event)
    cancelled: Event = field(default_factory=Event)
    closed: Event = field(default_factory=Event)
    settled: Event = field(default_factory=Event)

    def reset(self) -> None:
        """As new."""
        self.failure, self.hold, self.ledger = None, False, Ledger()
        self.calls.clear()
        for event in (self.begun, self.release, self.cancelled, self.closed, self.settled):
            event.clear()

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        return uniform_plan(self.manifest, 8 if bits is None else bits, layers, slices)

    def ready(self, plan: Plan | None, goal: Goal) -> None:
        if plan:
            plan.check(self.manifest)

    def set_budget(self, budget_bytes: int) -> None:
        if budget_bytes < 100:
            raise BudgetError(f"memory budget {budget_bytes} is too small")
        self.budget_bytes = budget_bytes

    def settle(self, interrupted: Callable[[], bool]) -> bool:
        self.settled.set()
        return not interrupted()

    def answer(
        self,
        inputs: Sequence[Text],
        plan: Plan | None = None,
        *,
        goal: Goal = NO_GOAL,
        truncate: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Answer:
        plan = plan or self.uniform_plan()
        plan.check(self.manifest)
        self.calls.append(Call(tuple(inputs), plan, truncate, goal))
        self.begun.set()
        if self.failure:
            raise self.failure
        while self.hold and not self.release.wait(0.01):
            if cancelled():
                self.cancelled.set()
                raise Cancelled("cancelled")
        tokens = tuple(fake_tokens(text) for text in inputs)
        return Answer(tuple(self.output(len(item)) for item in tokens), tokens, _report(plan, tokens, goal))

    def output(self, tokens: int) -> npt.NDArray[np.float32]:
        """(24,) for embeddings, (labels,) or (tokens, labels) otherwise, from the number of tokens alone."""
        head = self.manifest.description.head
        if head.kind is HeadKind.EMBEDDING:
            return np.linspace(0.1, tokens, embedding_size(self.manifest), dtype=np.float32)
        logits = np.roll(np.linspace(-1, 1, len(head.labels), dtype=np.float32), tokens)
        return np.stack([np.roll(logits, n) for n in range(tokens)]) if head.kind.value.startswith("token") else logits

    @property
    def texts(self) -> Texts:
        raise RequestError("generates no text")

    def close(self) -> None:
        self.closed.set()


def _report(plan: Plan, tokens: Sequence[Tokens], goal: Goal) -> RunReport:
    target_ms = goal.target_ms
    outcome = None if target_ms is None else Outcome(target_ms, 30.0, 35.0, 0.25, 800, "for a test")
    return RunReport(
        layers=len(plan.layers), slices=plan.slices, bits=plan.bitwidths, resident_layers=1,
        tokens=sum(map(len, tokens)), sequences=(16,), passes=1, times=PhaseTimes(1.0, 2.0, 3.0, 4.0, 5.0),
        budget_bytes=1000, model_peak_bytes=900, process_peak_bytes=5000, plans=(plan,), outcome=outcome, answer_ms=6.0,
    )  # fmt: skip
