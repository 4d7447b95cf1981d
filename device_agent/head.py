"""From the last hidden states to an answer: pooling, then the checkpoint's small dense layers."""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from device_agent.norm import apply_norm
from shard_store.geometry import Geometry
from shard_store.head import Head, HeadActivation, HeadKind, Pooling, Scores
from shard_store.layer_spec import NormPosition

Floats = npt.NDArray[np.float32]

_ACTIVATIONS: Mapping[HeadActivation, Callable[[Floats], Floats]] = {
    HeadActivation.NONE: lambda x: x,
    HeadActivation.TANH: np.tanh,
    HeadActivation.RELU: lambda x: np.maximum(x, np.float32(0)),
}


def apply_head(hidden: Floats, head: Head, tensors: Mapping[str, Floats], geometry: Geometry | None = None) -> Floats:
    """hidden (tokens, features), padding cut off, to an embedding (features,), logits (labels,) or (tokens, labels).

    geometry: of a model whose last layer is followed by a norm if its norms stand before; None: there is no such norm.
    """
    if geometry is not None and geometry.spec.norm_position is NormPosition.BEFORE:
        hidden = apply_norm(hidden, "final_norm", tensors, geometry)
    x = hidden if head.kind is HeadKind.TOKEN_CLASSIFICATION else _pool(hidden, head.pooling)
    for dense in head.layers:
        x = _ACTIVATIONS[dense.activation](x @ tensors[dense.weight].T + tensors[dense.bias])
    if head.normalize:
        x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))
    return np.asarray(x, np.float32)


def softmax(logits: Floats) -> Floats:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)


def scores_of(logits: Floats, scores: Scores) -> Floats:
    """What a client reads of outputs (..., labels): probabilities, or the outputs themselves of a regression."""
    if scores is Scores.SIGMOID:
        return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)), np.float32)
    return softmax(logits) if scores is Scores.SOFTMAX else logits


def _pool(hidden: Floats, pooling: Pooling) -> Floats:
    return hidden[0] if pooling is Pooling.CLS else np.asarray(hidden.mean(axis=0), np.float32)
