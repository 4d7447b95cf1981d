"""An independent forward pass in plain numpy float32, the oracle for graphs, executors and the engine.

It follows the papers (post-norm Transformer encoder; STI section 4.1 for slices), not the code under test. Simulated
int8 activations follow XNNPACK's qd8: every row of a matrix's input gets its own scale and zero point.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from host.head import Head
from host.weights import LayerNorm, LayerWeights, Linear, Tables
from shard_store.geometry import Activation, Geometry
from shard_store.head import HeadActivation, HeadKind, Pooling
from shard_store.layer_spec import NormPosition

Floats: TypeAlias = npt.NDArray[np.float32]
LayerHook: TypeAlias = Callable[[int, LayerWeights], LayerWeights]

_erf = np.frompyfunc(math.erf, 1, 1)


class Model(Protocol):
    """What the forward pass needs of a checkpoint; host.checkpoint.Checkpoint has it."""

    @property
    def head(self) -> Head: ...

    @property
    def position_offset(self) -> int: ...

    def geometry(self, slices: int | None = None) -> Geometry: ...

    def layer(self, index: int) -> LayerWeights: ...

    def tables(self) -> Tables: ...

    def embedding_norm(self) -> LayerNorm: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """All stages of one forward pass."""

    embedded: Floats  # (batch, tokens, hidden), the input of the first layer
    hidden: tuple[Floats, ...]  # per layer that ran: (batch, tokens, hidden)
    output: Floats  # logits (batch, labels) or (batch, tokens, labels), or embeddings (batch, hidden)


def reference_forward(
    model: Model,
    token_ids: npt.ArrayLike,
    type_ids: npt.ArrayLike | None = None,
    mask: npt.ArrayLike | None = None,
    *,
    layers: Sequence[int] | None = None,
    kept_slices: int | None = None,
    slices: int | None = None,
    replace_layer: LayerHook | None = None,
    int8_activations: bool = False,
) -> Answer:
    """Run a checkpoint on token ids (batch, tokens), padding on the right with mask 0.

    layers: which layers run, in that order; default all.
    kept_slices of slices: the first heads and FFN neurons of every layer; default all, one slice per head.
    replace_layer: given a layer's index and whole weights, returns the weights to use, for example dequantised ones.
    int8_activations: round the inputs of the six matrices as XNNPACK does.
    """
    ids = np.asarray(token_ids)  # (batch, tokens)
    types = np.zeros_like(ids) if type_ids is None else np.asarray(type_ids)
    present = np.ones_like(ids) if mask is None else np.asarray(mask)
    geometry = model.geometry(slices)
    kept = geometry.slices if kept_slices is None else kept_slices
    hidden = embedded = embed(model, ids, types)
    states = []
    for index in range(geometry.layers) if layers is None else layers:
        weights = model.layer(index)
        if replace_layer is not None:
            weights = replace_layer(index, weights)
        hidden = run_layer(first_slices(weights, geometry, kept), geometry, hidden, present, int8_activations)
        states.append(hidden)
    return Answer(embedded, tuple(states), apply_head(model.head, hidden, present))


def embed(model: Model, ids: npt.NDArray[np.integer], types: npt.NDArray[np.integer]) -> Floats:
    """Sum the embeddings and normalise: (batch, tokens) -> (batch, tokens, hidden)."""
    tables = model.tables()
    positions = model.position_offset + np.arange(ids.shape[1])
    total = tables.word[ids].astype(np.float32) + tables.position[positions].astype(np.float32)
    if tables.token_type is not None:
        total = total + tables.token_type[types].astype(np.float32)
    return layer_norm(total, model.embedding_norm(), model.geometry(1).norm_eps)


def first_slices(weights: LayerWeights, geometry: Geometry, kept: int) -> LayerWeights:
    """Cut a layer down to its first kept slices: rows of Q, K, V and FFN up, columns of O and FFN down."""
    attention, neurons = kept * geometry.slice_attention, kept * geometry.slice_ffn

    def rows(linear: Linear, count: int) -> Linear:
        return Linear(linear.weight[:count], linear.bias[:count])

    def columns(linear: Linear, count: int) -> Linear:
        return Linear(linear.weight[:, :count], linear.bias)

    return LayerWeights(
        query=rows(weights.query, attention),
        key=rows(weights.key, attention),
        value=rows(weights.value, attention),
        output=columns(weights.output, attention),
        ffn_up=rows(weights.ffn_up, neurons),
        ffn_down=columns(weights.ffn_down, neurons),
        attention_norm=weights.attention_norm,
        ffn_norm=weights.ffn_norm,
    )


def run_layer(
    weights: LayerWeights,
    geometry: Geometry,
    hidden: Floats,
    mask: npt.NDArray[np.integer],
    int8_activations: bool = False,
) -> Floats:
    """One bidirectional layer: hidden (batch, tokens, hidden), mask (batch, tokens) -> (batch, tokens, hidden)."""

    def apply(linear: Linear, x: Floats) -> Floats:
        x = round_to_int8(x) if int8_activations else x
        return x @ linear.weight.T + linear.bias

    def heads(x: Floats) -> Floats:
        batch, tokens, features = x.shape
        return x.reshape(batch, tokens, features // geometry.head_width, geometry.head_width).transpose(0, 2, 1, 3)

    before = geometry.spec.norm_position is NormPosition.BEFORE
    seen = layer_norm(hidden, weights.attention_norm, geometry.norm_eps) if before else hidden
    query, key, value = (heads(apply(linear, seen)) for linear in (weights.query, weights.key, weights.value))
    scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(geometry.head_width))
    scores = np.where(mask[:, None, None, :] != 0, scores, np.float32(-1e9))  # (batch, heads, tokens, tokens)
    context = (softmax(scores) @ value).transpose(0, 2, 1, 3)  # (batch, tokens, heads, head width)
    context = context.reshape(*hidden.shape[:2], -1)
    if before:
        attended = hidden + apply(weights.output, context)
        inner = apply(weights.ffn_up, layer_norm(attended, weights.ffn_norm, geometry.norm_eps))
        return attended + apply(weights.ffn_down, activate(inner, geometry.activation))
    attended = layer_norm(hidden + apply(weights.output, context), weights.attention_norm, geometry.norm_eps)
    inner = activate(apply(weights.ffn_up, attended), geometry.activation)
    return layer_norm(attended + apply(weights.ffn_down, inner), weights.ffn_norm, geometry.norm_eps)


def as_float32(x: npt.ArrayLike) -> Floats:
    """Round to float32 where numpy's promotion has widened."""
    return np.asarray(x, dtype=np.float32)


def layer_norm(x: Floats, norm: LayerNorm, eps: float) -> Floats:
    """Normalise over the last axis (Ba et al. 2016), with the biased variance."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return as_float32(centred / np.sqrt(variance + np.float32(eps)) * norm.gamma + norm.beta)


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return as_float32(powers / powers.sum(axis=-1, keepdims=True))


def activate(x: Floats, activation: Activation) -> Floats:
    """GELU (Hendrycks and Gimpel 2016) exactly or by its tanh form, SiLU, or ReLU."""
    if activation is Activation.SILU:
        return as_float32(x / (1 + np.exp(-x)))
    if activation is Activation.RELU:
        return np.maximum(x, np.float32(0))
    if activation is Activation.GELU:
        erf = np.asarray(_erf(x.astype(np.float64) / math.sqrt(2)), dtype=np.float64)
        return as_float32(0.5 * x * (1 + erf))
    cubic = x + np.float32(0.044715) * x**3
    return as_float32(0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * cubic)))


def round_to_int8(x: Floats) -> Floats:
    """Quantise each row (last axis) to asymmetric int8 and back, as XNNPACK's dynamic qd8 inputs."""
    low = np.minimum(x.min(axis=-1, keepdims=True), np.float32(0))
    high = np.maximum(x.max(axis=-1, keepdims=True), np.float32(0))
    span = high - low
    scale = np.where(span == 0, np.float32(1), np.float32(255) / np.where(span == 0, np.float32(1), span))
    # of the two zero points that map an end of the range exactly, the one with the smaller error
    from_low, from_high = -128 + low * scale, 127 + high * scale
    zero = np.where(from_low + from_high > 0, -128 - low * scale, 127 - high * scale)
    zero = np.rint(np.clip(zero, -128, 127))
    codes = np.clip(np.rint(x * scale) + zero, -128, 127)
    return as_float32((codes - zero) / scale)


def apply_head(head: Head, hidden: Floats, mask: npt.NDArray[np.integer]) -> Floats:
    """Pool, apply the dense layers and normalise: (batch, tokens, hidden) -> logits or embeddings."""
    x = hidden
    if head.kind is not HeadKind.TOKEN_CLASSIFICATION:
        x = hidden[:, 0] if head.pooling is Pooling.CLS else masked_mean(hidden, mask)  # (batch, hidden)
    for dense in head.dense:
        x = x @ dense.weight.T + dense.bias
        if dense.activation is HeadActivation.TANH:
            x = np.tanh(x)
        elif dense.activation is HeadActivation.RELU:
            x = np.maximum(x, np.float32(0))
    if head.normalize:
        x = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.float32(1e-12))
    return x


def masked_mean(hidden: Floats, mask: npt.NDArray[np.integer]) -> Floats:
    """The mean over the tokens whose mask is not 0."""
    weights = (mask != 0).astype(np.float32)[:, :, None]  # (batch, tokens, 1)
    return as_float32((hidden * weights).sum(axis=1) / weights.sum(axis=1))
