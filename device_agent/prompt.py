"""Prompts to tokens and tokens to text, for models that generate."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from device_agent.executor import Activations
from device_agent.text import Input, Tokens
from device_agent.tokenizer import open_tokenizer
from shard_store.errors import RequestError
from shard_store.layer_spec import Positions
from shard_store.reader import Store


class PromptEncoder:
    """The tokenizer of a language model, and its embeddings. As an `Encoder` it refuses: nothing can be classified."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._description = store.manifest.description
        self._tokenizer = open_tokenizer(store)

    def encode(self, prompt: str, *, special: bool = True) -> npt.NDArray[np.int64]:
        """Token ids (tokens,); special: whether the tokenizer may add its own. Raises RequestError for none."""
        try:
            ids = self._tokenizer.encode(prompt, add_special_tokens=special).ids
        except TypeError as error:
            raise RequestError(
                "the prompt holds characters that are not valid Unicode; correct its encoding"
            ) from error
        if not ids:
            raise RequestError("the prompt has no tokens; give it some text")
        return np.array(ids, np.int64)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated tokens, without special ones."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def embeddings(self, ids: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """The first hidden states (tokens, hidden)."""
        hidden = self._store.rows("word", ids)
        if self._description.geometry.spec.positions is Positions.ABSOLUTE:
            hidden += self._store.rows("position", positions + self._description.position_offset)
        return hidden

    def tokenize(self, inputs: Sequence[Input], truncate: bool = False) -> list[Tokens]:  # noqa: ARG002
        """Always raises RequestError."""
        raise RequestError(f"model {self._description.model} generates text; ask it for a completion")

    @property
    def sample(self) -> Input:
        """Never asked: a decoder is measured by its steps."""
        raise NotImplementedError

    def bucket(self, tokens: Tokens) -> int:
        """Never asked."""
        raise NotImplementedError

    def embed(self, tokens: Tokens, activations: Activations) -> None:
        """Never asked."""
        raise NotImplementedError
