"""An engine's side of generated text: the generator, and plans for the time that a token may take."""

from dataclasses import replace
from functools import cached_property

from device_agent.causal_model import CausalModel, Parts
from device_agent.costing.decode_step import DecodeStep
from device_agent.generator import Generator
from device_agent.memory import MIB
from device_agent.phases import PhaseTimes
from device_agent.planning.ask import Ask
from device_agent.prompt import PromptEncoder
from device_agent.targets import Targets
from device_agent.text import Encoder
from device_agent.text_run import TextRun, yielding
from shard_store.errors import BudgetError, RequestError

_CAPACITY_STEP = 64  # tokens that a text's cache is planned for are rounded up to, so that plans repeat


class Texts:
    """Not thread-safe: the engine serialises. Most of it raises RequestError for a model that generates no text."""

    def __init__(self, parts: Parts, encoder: Encoder, targets: Targets, most_drafts: int) -> None:
        """most_drafts: tokens that are guessed in a step."""
        self._parts, self._encoder, self._targets = parts, encoder, targets
        self._most_drafts = most_drafts
        self._manifest = parts.source.store.manifest

    @property
    def prompts(self) -> PromptEncoder:
        """The tokenizer."""
        if not isinstance(self._encoder, PromptEncoder):
            raise RequestError(f"model {self._manifest.description.model} generates no text")
        return self._encoder

    @cached_property
    def generator(self) -> Generator:
        """Begins texts and takes them forward."""
        model = CausalModel(self._parts, self.prompts)
        generation = self._manifest.description.generation
        ends = generation.end_tokens if generation else ()
        return Generator(model, self.prompts, ends, self._most_drafts)

    def steps(self) -> DecodeStep:
        """Timed steps, for measuring this device."""
        return DecodeStep(self.generator.model, self._parts, self.prompts)

    def run(self, target_ms: float, tokens: int) -> TextRun:
        """The best plan for a text of `tokens` tokens, prompt and answer.

        target_ms: of a step that makes one token, for a text alone, once the layers that stay are in memory.
        Raises PlanError without a profile, and BudgetError with the numbers.
        """
        capacity = -(-tokens // _CAPACITY_STEP) * _CAPACITY_STEP
        room_bytes = self.generator.model.room_bytes(capacity)
        taken_bytes = self._parts.budget_bytes() - room_bytes
        ask = Ask(
            min(self._manifest.description.sequences), room_bytes, target_ms=target_ms,
            loading_agents=self._targets.loading_agents, bitwidths=self._targets.bitwidths,
        )  # fmt: skip
        elastic = self._targets.elastic
        try:
            decision = elastic.decide(ask, lambda plan: frozenset(layer.layer for layer in plan.layers))
        except BudgetError as error:
            raise BudgetError(
                f"{error}, beside {taken_bytes / MIB:.1f} MiB for KV caches, this one of {capacity} tokens; ask for "
                "fewer tokens or raise --memory-mb"
            ) from error
        peak_bytes = decision.promise.predicted_peak_bytes + taken_bytes
        return TextRun(yielding(decision.plan), target_ms, replace(decision.promise, predicted_peak_bytes=peak_bytes))

    def observe(self, run: TextRun, times: PhaseTimes) -> None:
        """Learn from a typical step of a text that had a target."""
        self._targets.observe(run.promise, times, run.plan)

    def trim(self) -> None:
        """Free what of the vocabulary's head stays in memory, if anything was ever generated."""
        if self._generates:
            self.generator.model.trim()

    def close(self) -> None:
        """Free what was taken for generating."""
        if self._generates:
            self.generator.model.close()

    @property
    def _generates(self) -> bool:
        """Whether there is a generator already."""
        return "generator" in vars(self)
