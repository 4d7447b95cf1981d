"""Inputs that run together while a model is profiled."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

BATCH_INPUTS = 32


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Texts of about one length, padded at the end."""

    ids: npt.NDArray[np.int64]  # (texts, seq)
    types: npt.NDArray[np.int64]  # (texts, seq)
    real: npt.NDArray[np.bool_]  # (texts, seq): a token, not padding
    judged: npt.NDArray[np.int64] | None = None  # (texts, n): of a language model, the tokens behind which it is judged

    @property
    def answers(self) -> npt.NDArray[np.bool_]:
        """Which of each text's outputs count: (texts, seq), or (texts, n) where some tokens are judged."""
        return self.real if self.judged is None else self.judged >= 0  # -1: the text has fewer tokens


@dataclass(frozen=True, slots=True, eq=False)
class ImageBatch:
    """Images in the model's size, as bytes: they take a fourth of their floats when they are sent to a process."""

    pixels: npt.NDArray[np.uint8]  # (images, height, width, channels)
    real: npt.NDArray[np.bool_]  # (images, patches + 1): all of them

    @property
    def answers(self) -> npt.NDArray[np.bool_]:
        """As of texts."""
        return self.real


Batch: TypeAlias = TokenBatch | ImageBatch
