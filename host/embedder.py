"""Texts as a transformer's first hidden states: tokens, padded to batches, through the embedding tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from host.checkpoint import Checkpoint
from host.weights import LayerNorm, Tables

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The tokens of one text (or pair of texts)."""

    ids: Ids  # (seq,)
    types: Ids  # (seq,): 1 for the second text of a pair

    @classmethod
    def of(cls, encoding: Encoding) -> "TokenIds":
        """What the tokenizer made of a text."""
        return cls(np.array(encoding.ids, np.int32), np.array(encoding.type_ids, np.int32))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PaddedTokens:
    """Texts of one batch, filled up to the longest."""

    ids: Ids  # (texts, seq)
    types: Ids  # (texts, seq)
    real: npt.NDArray[np.bool_]  # (texts, seq): a token, not padding


def pad(texts: Sequence[TokenIds]) -> PaddedTokens:
    """Fill up to the longest text."""
    ids = np.zeros((len(texts), max(map(len, texts))), np.int32)
    types, real = np.zeros_like(ids), np.zeros(ids.shape, np.bool_)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text.ids
        types[row, : len(text)] = text.types
        real[row, : len(text)] = True
    return PaddedTokens(ids, types, real)


@dataclass(frozen=True, slots=True)
class Embedder:
    """The embedding tables of a checkpoint, and the LayerNorm after their sum."""

    tables: Tables
    norm: LayerNorm
    norm_eps: float
    position_offset: int  # the row of the position table for the first token

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Embedder":
        """Read the tables of a checkpoint."""
        return cls(
            checkpoint.tables(), checkpoint.embedding_norm(),
            checkpoint.config.layer_norm_eps, checkpoint.position_offset,
        )  # fmt: skip

    def embed(self, tokens: PaddedTokens) -> npt.NDArray[np.float32]:
        """The input of the first layer: (texts, seq, hidden)."""
        length = tokens.ids.shape[1]
        summed = self.tables.word[tokens.ids].astype(np.float32) + self.tables.position[self.position_offset :][:length]
        if self.tables.token_type is not None:
            summed += self.tables.token_type[tokens.types]
        centred = summed - summed.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.norm_eps)
        return np.asarray(scaled * self.norm.gamma + self.norm.beta, np.float32)
