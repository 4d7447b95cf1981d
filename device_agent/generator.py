"""Texts that are being generated together: each step is one pass over the layers for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.causal_model import CausalModel
from device_agent.completion import Completion, FinishReason, GenerateOptions
from device_agent.key_values import KeyValueCache
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan
from device_agent.prompt import PromptEncoder


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A text under way, and what the model remembers of it."""

    completion: Completion
    cache: KeyValueCache


@dataclass(frozen=True, slots=True)
class Generated:
    """A finished text. ids: its tokens without the one that ended it; steps: passes that it took part in."""

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    steps: int
    times: PhaseTimes


class Generator:
    """Begins texts and takes them forward. Not thread-safe: the engine serialises."""

    def __init__(self, model: CausalModel, encoder: PromptEncoder, end_tokens: Sequence[int]) -> None:
        self.model = model
        self._encoder, self._end_tokens = encoder, tuple(end_tokens)

    def begin(self, prompt: npt.NDArray[np.int64], options: GenerateOptions, plan: Plan) -> Running:
        """Admit a text behind a prompt (tokens,). Raises RequestError or BudgetError, with the numbers."""
        cache = self.model.open_cache(plan, len(prompt) + options.max_tokens)
        return Running(Completion(prompt, options, self._end_tokens, self._encoder.decode), cache)

    def step(
        self, running: Sequence[Running], plan: Plan, cancelled: Callable[[], bool]
    ) -> tuple[tuple[str, ...], PhaseTimes]:
        """The next token of every text; what each has to add to what was told of it."""
        segments = [text.completion.segment(text.cache) for text in running]
        logits, times = self.model.advance(plan, segments, cancelled)
        return tuple(text.completion.take(row) for text, row in zip(running, logits, strict=True)), times

    def end(self, running: Running) -> None:
        """Forget a text."""
        self.model.close_cache(running.cache)

    def generate(
        self, prompt: npt.NDArray[np.int64], options: GenerateOptions, plan: Plan,
        cancelled: Callable[[], bool], tell: Callable[[str], None],
    ) -> Generated:  # fmt: skip
        """One text, from begin to end; `tell` gets its pieces as they settle."""
        running, times, steps = self.begin(prompt, options, plan), PhaseTimes(), 0
        try:
            while running.completion.finish_reason is None:
                (piece,), passed = self.step([running], plan, cancelled)
                times, steps = times + passed, steps + 1
                tell(piece)
        finally:
            self.end(running)
        completion = running.completion
        assert completion.finish_reason is not None
        return Generated(
            completion.text, tuple(completion.ids), len(prompt), completion.finish_reason, steps, times
        )  # fmt: skip
