"""From text to the first hidden states: tokens, then rows of the embedding tables read from flash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle, islice
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding

from device_agent.executor import Activations
from device_agent.norm import apply_norm
from device_agent.tokenizer import open_tokenizer
from shard_store.errors import RequestError
from shard_store.reader import Store

MASKED = -10000.0  # added to the attention scores of padding
_SAMPLE = ("the", "parcel", "has", "not", "arrived", "and", "nobody", "answers", "the", "telephone")
_SAMPLE_WORDS = 128
_FEW_TYPES = 16

Text = str | tuple[str, str]
Input = Text | bytes  # bytes: a PNG or JPEG file


@dataclass(frozen=True, slots=True)
class Tokens:
    """One encoded input."""

    ids: npt.NDArray[np.int64]  # (tokens,)
    types: npt.NDArray[np.int64]  # (tokens,)
    texts: tuple[str, ...]  # (tokens,) as the vocabulary writes them
    spans: tuple[tuple[int, int] | None, ...]  # (tokens,) characters of the text; None: added by the tokenizer
    patches: npt.NDArray[np.float32] | None = None  # (tokens - 1, features) of an image, behind its class token

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """What an engine needs of a way to read inputs: `TextEncoder`, or `ImageEncoder` of device_agent/image.py."""

    def tokenize(self, inputs: Sequence[Input], truncate: bool = False) -> list[Tokens]:
        """Cut inputs into tokens. Raises RequestError for what the model cannot read."""
        ...

    def bucket(self, tokens: Tokens) -> int:
        """The shortest sequence length for which there are templates."""
        ...

    def embed(self, tokens: Tokens, activations: Activations) -> None:
        """Write the first hidden states and the mask."""
        ...

    @property
    def sample(self) -> Input:
        """An ordinary input, to measure with."""
        ...


class TextEncoder:
    """Tokenises, and embeds into a batch's activations."""

    def __init__(self, store: Store, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        self._store = store
        self._tensors = tensors
        self._manifest = store.manifest
        self._description = store.manifest.description
        self._tokenizer = open_tokenizer(store)

    @cached_property
    def _few_types(self) -> npt.NDArray[np.float32] | None:
        """The rows of all token types, where they are as few as in any known model."""
        table = self._manifest.row_tables["token_type"]
        return self._store.rows("token_type", range(table.rows)) if table.rows <= _FEW_TYPES else None

    def _types(self, types: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(tokens, hidden). Raises FormatError for one that the table does not have."""
        if self._few_types is None or types.max() >= len(self._few_types):
            return self._store.rows("token_type", types)
        rows: npt.NDArray[np.float32] = self._few_types[types]
        return rows

    @property
    def max_tokens(self) -> int:
        """The longest input that positions and sequence buckets allow."""
        return min(self._description.max_tokens, max(self._description.sequences))

    def tokenize(self, inputs: Sequence[Input], truncate: bool = False) -> list[Tokens]:
        """Encode texts or pairs of texts. Raises RequestError for what is too long, unless it may be cut off."""
        texts = [text for text in inputs if not isinstance(text, bytes)]
        if len(texts) < len(inputs):
            raise RequestError(f"model {self._description.model} reads texts, not images; send text")
        limit = self.max_tokens
        if truncate:
            self._tokenizer.enable_truncation(limit)
        try:
            encodings = self._tokenizer.encode_batch(texts)
        except TypeError as error:  # of a str, only lone surrogates are refused
            raise RequestError("an input holds characters that are not valid Unicode; correct its encoding") from error
        finally:
            self._tokenizer.no_truncation()
        for number, encoding in enumerate(encodings):
            if not encoding.ids:
                raise RequestError(f"input {number} has no tokens; give it some text")
            if len(encoding.ids) > limit:
                raise RequestError(
                    f"input {number} has {len(encoding.ids)} tokens, the limit is {limit}; "
                    "shorten it or ask for truncation"
                )
        return [_tokens(encoding) for encoding in encodings]

    @property
    def sample(self) -> Input:
        """As long as the longest bucket, up to 128 words: predictions for shorter texts are then late, not early."""
        return " ".join(islice(cycle(_SAMPLE), min(_SAMPLE_WORDS, max(self._description.sequences))))

    def bucket(self, tokens: Tokens) -> int:
        """The shortest sequence length for which there are templates."""
        return next(sequence for sequence in self._description.sequences if sequence >= len(tokens))

    def embed(self, tokens: Tokens, activations: Activations) -> None:
        """Write the embedding layer's output and the mask; padding is zero and masked."""
        count = len(tokens)
        positions = np.arange(count, dtype=np.int64) + self._description.position_offset
        summed = self._store.rows("word", tokens.ids) + self._store.rows("position", positions)  # (tokens, hidden)
        if "token_type" in self._manifest.row_tables:
            summed += self._types(tokens.types)
        hidden = activations.hidden
        hidden[:count] = apply_norm(summed, "embedding_norm", self._tensors, self._manifest.geometry)
        hidden[count:] = 0.0
        activations.mask.array[..., :count] = 0.0
        activations.mask.array[..., count:] = MASKED


def _tokens(encoding: Encoding) -> Tokens:
    spans = tuple(
        None if special else span for special, span in zip(encoding.special_tokens_mask, encoding.offsets, strict=True)
    )
    return Tokens(
        np.array(encoding.ids, np.int64), np.array(encoding.type_ids, np.int64), tuple(encoding.tokens), spans
    )
