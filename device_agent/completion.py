"""One text while it is being generated: what was asked, what came so far, and when it ends."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from device_agent.causal_activations import Segment
from device_agent.draft import PromptLookup
from device_agent.key_values import KeyValueCache
from device_agent.sampling import Sampler, Sampling
from shard_store.errors import RequestError

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer writes for the first bytes of a character

_NONE = np.empty(0, np.int64)

Decode = Callable[[Sequence[int]], str]


class FinishReason(str, Enum):
    """Why a text ended."""

    STOP = "stop"  # an end token or a stop string
    LENGTH = "length"  # as many tokens as were asked for


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """What to generate behind a prompt. stop: strings that end the text and are not part of it."""

    max_tokens: int = 16
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise RequestError(f"max_tokens is {self.max_tokens}, must be at least 1")
        if len(self.stop) > MAX_STOPS or not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            raise RequestError(f"stop: at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters each")


class Completion:
    """Takes logits, gives tokens and, as soon as it is certain that it stays, text."""

    def __init__(
        self, prompt: npt.NDArray[np.int64], options: GenerateOptions, end_tokens: Sequence[int], decode: Decode,
        lookup: PromptLookup,
    ) -> None:  # fmt: skip
        self.prompt = prompt
        self.lookup = lookup
        self.ids: list[int] = []
        self.text = ""  # settled: no later token changes it
        self.finish_reason: FinishReason | None = None
        self._options, self._ends, self._decode = options, frozenset(end_tokens), decode
        self._sampler = Sampler(options.sampling)

    @property
    def read_tokens(self) -> int:
        """Tokens that the model has read once it has been through a segment: all but the last."""
        return len(self.prompt) + len(self.ids) - 1

    def segment(self, cache: KeyValueCache, most_drafts: int, *, free: bool = False) -> Segment:
        """The tokens that the model has not read yet: the prompt, then always the last, and guesses at what follows.

        There is never a guess at the last token that was asked for: behind it nothing is read, and it has no room.
        free: whether guesses that are wrong cost no time.
        """
        if not self.ids:
            return Segment(self.prompt, cache)
        tokens = np.concatenate((self.prompt, self.ids))
        room = min(most_drafts, self._options.max_tokens - len(self.ids) - 1)
        drafts = self.lookup.draft(tokens, room, free=free)
        return Segment(np.concatenate((tokens[-1:], drafts)), cache, len(drafts))

    def take(self, logits: npt.NDArray[np.float32], drafts: npt.NDArray[np.int64] = _NONE) -> tuple[str, ...]:
        """Choose tokens from logits (1 + drafts, vocabulary), for as long as the drafts are the ones that are chosen.

        Returns the text that settled with each, the same as without drafts.
        """
        pieces, accepted = [], 0
        for row, draft in zip(logits, (*drafts.tolist(), None), strict=True):
            token = self._sampler.choose(row)
            pieces.append(self._add(token))
            accepted += token == draft
            if token != draft or self.finish_reason is not None:
                break
        self.lookup.learn(len(drafts), accepted)
        return tuple(pieces)

    def _add(self, token: int) -> str:
        if token in self._ends:
            self.finish_reason = FinishReason.STOP
        else:
            self.ids.append(token)
            if len(self.ids) >= self._options.max_tokens:
                self.finish_reason = FinishReason.LENGTH
        return self._settle()

    def _settle(self) -> str:
        text, before = self._decode(self.ids), len(self.text)
        places = [place for stop in self._options.stop if (place := text.find(stop)) >= 0]
        if places:
            self.finish_reason = FinishReason.STOP
            text = text[: min(places)]
        elif self.finish_reason is None:
            text = text.rstrip(_BROKEN)
            text = text[: len(text) - self._held_back(text)]
        if len(text) > before:
            self.text = text
        return self.text[before:]

    def _held_back(self, text: str) -> int:
        """Characters at the end that may yet turn out to begin a stop string."""
        longest = 0
        for stop in self._options.stop:
            lengths = range(min(len(stop) - 1, len(text)), 0, -1)
            longest = max(longest, next((length for length in lengths if text.endswith(stop[:length])), 0))
        return longest
