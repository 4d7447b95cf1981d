"""From the last hidden states to an answer: pooling, then the checkpoint's small dense layers."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from shard_store.manifest import Head

Floats = npt.NDArray[np.float32]

_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "none": lambda x: x,
    "tanh": lambda x: np.tanh(x),
    "relu": lambda x: np.maximum(x, np.float32(0)),
}


def apply_head(hidden: Floats, head: Head, tensors: Mapping[str, Floats]) -> Floats:
    """hidden (tokens, features), padding cut off, to an embedding (features,), logits (labels,) or (tokens, labels)."""
    x = hidden if head.kind == "token_classification" else _pool(hidden, head.pooling)
    for dense in head.layers:
        x = _ACTIVATIONS[dense.activation](x @ tensors[dense.weight].T + tensors[dense.bias])
    if head.normalize:
        x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))
    return np.asarray(x, np.float32)


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def _pool(hidden: Floats, pooling: str) -> Floats:
    return hidden[0] if pooling == "cls" else np.asarray(hidden.mean(axis=0), np.float32)
