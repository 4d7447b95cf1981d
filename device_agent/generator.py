"""Texts that are being generated together: each step is one pass over the layers for all of them.

A step also checks guesses at what follows (`PromptLookup`). The tokens are those that would be chosen without: each
from the logits at its own place, by the same sampler in the same order, and a guess is kept only if it is that token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.causal_activations import Segment
from device_agent.causal_model import CausalModel
from device_agent.causal_passes import Drafting
from device_agent.completion import Completion, FinishReason, GenerateOptions
from device_agent.draft import PromptLookup
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
    """A finished text. ids: its tokens without the one that ended it; steps: passes that it took part in.

    drafted, accepted: tokens that were guessed beside, and those that were right.
    """

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: FinishReason
    steps: int
    drafted: int
    accepted: int
    times: PhaseTimes


class Generator:
    """Begins texts and takes them forward. Not thread-safe: the engine serialises."""

    def __init__(self, model: CausalModel, encoder: PromptEncoder, end_tokens: Sequence[int], most_drafts: int) -> None:
        """most_drafts: tokens that are guessed in a step, those of all its texts together."""
        self.model = model
        self._encoder, self._end_tokens, self._most_drafts = encoder, tuple(end_tokens), most_drafts

    def begin(self, prompt: npt.NDArray[np.int64], options: GenerateOptions, plan: Plan) -> Running:
        """Admit a text behind a prompt (tokens,). Raises RequestError or BudgetError, with the numbers."""
        cache = self.model.open_cache(plan, len(prompt) + options.max_tokens)
        first = None if options.sampling.temperature == 0.0 else 1  # what is left to chance seldom repeats
        lookup = PromptLookup(self._most_drafts, first=first)
        return Running(Completion(prompt, options, self._end_tokens, self._encoder.decode, lookup), cache)

    def step(
        self, running: Sequence[Running], plan: Plan, cancelled: Callable[[], bool]
    ) -> tuple[tuple[tuple[str, ...], ...], PhaseTimes]:
        """The next token of every text, or several; what each of them adds to what was told of its text."""
        drafting = self._drafting(running, plan)
        segments = _segments(running, drafting)
        logits, times = self.model.advance(plan, segments, cancelled, drafting)
        pieces, row = [], 0
        for text, segment in zip(running, segments, strict=True):
            rows = logits[row : row + segment.wanted]
            pieces.append(text.completion.take(rows, segment.guesses))
            text.cache.rewind(text.completion.read_tokens)
            row += segment.wanted
        return tuple(pieces), times

    def _drafting(self, running: Sequence[Running], plan: Plan) -> Drafting | None:
        """None while a prompt is read: a longer pass is no place for guesses."""
        if not all(text.completion.ids for text in running):
            return None
        return self.model.passes.drafting(plan, len(running), self._most_drafts)

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
                (pieces,), passed = self.step([running], plan, cancelled)
                times, steps = times + passed, steps + 1
                for piece in pieces:
                    tell(piece)
        finally:
            self.end(running)
        completion = running.completion
        assert completion.finish_reason is not None
        return Generated(
            completion.text, tuple(completion.ids), len(prompt), completion.finish_reason, steps,
            completion.lookup.drafted, completion.lookup.accepted, times,
        )  # fmt: skip


def _segments(running: Sequence[Running], drafting: Drafting | None) -> list[Segment]:
    """Each text with its share of the drafts: what one does not need is left to those behind it."""
    most, free = (drafting.most, drafting.streams) if drafting else (0, False)
    segments = []
    for number, text in enumerate(running):
        share = -(-most // (len(running) - number))
        segments.append(text.completion.segment(text.cache, share, free=free))
        most -= segments[-1].drafts
    return segments
