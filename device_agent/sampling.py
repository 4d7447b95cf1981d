"""Choosing the next token from its logits: greedily, or by chance within limits."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shard_store.errors import RequestError

MAX_TEMPERATURE = 2.0
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Temperature 0 is greedy; top_k 0 and top_p 1 limit nothing (Holtzman et al. 2020).

    seed: the same seed gives the same text; None: another one every time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise RequestError(f"temperature is {self.temperature:g}, must be 0 to {MAX_TEMPERATURE:g}")
        if self.top_k < 0:
            raise RequestError(f"top_k is {self.top_k}, must be 0 (no limit) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise RequestError(f"top_p is {self.top_p:g}, must be above 0 and at most 1")


class Sampler:
    """Chooses the tokens of one text."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: Floats) -> int:
        """A token, from its logits (vocabulary,)."""
        if self._sampling.temperature == 0.0:
            return int(logits.argmax())
        candidates, chances = self.chances(logits)
        return int(self._random.choice(candidates, p=chances))

    def chances(self, logits: Floats) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """The tokens that may be chosen, likeliest first, and how likely each is."""
        sampling = self._sampling
        kept = min(sampling.top_k or logits.size, logits.size)
        candidates = np.argsort(-logits, kind="stable")[:kept]
        scaled = logits[candidates].astype(np.float64) / sampling.temperature
        chances = np.exp(scaled - scaled[0])
        chances /= chances.sum()
        # the smallest set whose chances reach top_p: all before a token must fall short of it
        enough = np.cumsum(chances) - chances < sampling.top_p
        candidates, chances = candidates[enough], chances[enough]
        return candidates, chances / chances.sum()
