"""The one TensorFlow definition of a transformer layer: calibration, export and training all use it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from host.quiet_tensorflow import tf
from shard_store.geometry import Activation
from shard_store.layer_spec import LayerSpec, NormKind, NormPosition

Tensor = Any  # TensorFlow ships no usable type for tensors

MASKED = -10000.0  # added to the scores of padding, as BERT's reference implementation does

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: lambda x: tf.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: lambda x: tf.nn.gelu(x, approximate=True),
    Activation.RELU: tf.nn.relu,
    Activation.SILU: lambda x: x * tf.math.sigmoid(x),
}
_BERT = LayerSpec()


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The weights of one layer, or of its first slices. Matrices are (out, in); what a layer does not have is None."""

    query: Tensor
    query_bias: Tensor
    key: Tensor
    key_bias: Tensor
    value: Tensor
    value_bias: Tensor
    output: Tensor
    output_bias: Tensor
    ffn_up: Tensor
    ffn_up_bias: Tensor
    ffn_down: Tensor
    ffn_down_bias: Tensor
    attention_norm_gamma: Tensor
    attention_norm_beta: Tensor
    ffn_norm_gamma: Tensor
    ffn_norm_beta: Tensor
    ffn_gate: Tensor = None
    ffn_gate_bias: Tensor = None


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """A layer's result with what its matrices saw, for calibration."""

    hidden: Tensor  # (batch, seq, hidden)
    attended: Tensor  # (batch, seq, heads * head_width): input of `output`
    normed: Tensor  # (batch, seq, hidden): input of `ffn_up` and `ffn_gate`
    activated: Tensor  # (batch, seq, ffn): input of `ffn_down`
    projected: Tensor  # (batch, seq, hidden): input of `query`, `key` and `value`


def layer_forward(
    hidden: Tensor, mask: Tensor, weights: LayerTensors, *,
    head_width: int, activation: Activation, norm_eps: float, spec: LayerSpec = _BERT, frequencies: Tensor = None,
) -> LayerTrace:  # fmt: skip
    """Run one layer, its norms after (Vaswani et al. 2017; Devlin et al. 2019) or before.

    hidden is (batch, seq, hidden); mask is (batch, 1, seq or 1, seq), 0 for what a token sees and MASKED for padding
    and, in causal layers, for what lies ahead. frequencies: (head_width / 2,), of rotary positions, from 0 on.
    The number of heads follows from the height of `weights.query`, so that narrow submodels run unchanged.
    Matrices may be of a shorter float type than the biases: they are then multiplied in it, and the rest is
    computed in the biases' type (mixed precision).
    """
    projected = attention_input(hidden, weights, norm_eps=norm_eps, spec=spec)
    query, key, value = (_split_heads(x, head_width) for x in project(projected, weights))
    if frequencies is not None:
        query, key = _turn(query, frequencies), _turn(key, frequencies)
    if (
        group := weights.query.shape[0] // weights.key.shape[0]
    ) > 1:  # query heads that share a KV head lie behind one another
        key, value = (tf.repeat(x, group, axis=1) for x in (key, value))
    scores = tf.matmul(query, key, transpose_b=True) * head_width**-0.5 + mask  # (batch, heads, seq, seq)
    attended = _join_heads(tf.matmul(tf.nn.softmax(scores), value))
    finished = finish(hidden, attended, weights, activation=activation, norm_eps=norm_eps, spec=spec)
    return replace(finished, projected=projected)


def attention_input(hidden: Tensor, weights: LayerTensors, *, norm_eps: float, spec: LayerSpec) -> Tensor:
    """What the three projections see: the hidden states, normalised if the norms stand before."""
    if spec.norm_position is NormPosition.AFTER:
        return hidden
    return norm(hidden, weights.attention_norm_gamma, weights.attention_norm_beta, norm_eps, spec.norm_kind)


def project(projected: Tensor, weights: LayerTensors) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (batch, seq, heads * head_width), keys and values (batch, seq, kv_heads * head_width)."""
    return (
        _linear(projected, weights.query, weights.query_bias),
        _linear(projected, weights.key, weights.key_bias),
        _linear(projected, weights.value, weights.value_bias),
    )


def finish(
    hidden: Tensor, attended: Tensor, weights: LayerTensors, *,
    activation: Activation, norm_eps: float, spec: LayerSpec,
) -> LayerTrace:  # fmt: skip
    """From the attention's result (batch, seq, heads * head_width) to the layer's: output projection, then the FFN."""
    before = spec.norm_position is NormPosition.BEFORE

    def attention_norm(x: Tensor) -> Tensor:
        return norm(x, weights.attention_norm_gamma, weights.attention_norm_beta, norm_eps, spec.norm_kind)

    def ffn_norm(x: Tensor) -> Tensor:
        return norm(x, weights.ffn_norm_gamma, weights.ffn_norm_beta, norm_eps, spec.norm_kind)

    summed = hidden + _linear(attended, weights.output, weights.output_bias)
    residual = summed if before else attention_norm(summed)
    normed = ffn_norm(residual) if before else residual
    activated = _ffn(normed, weights, activation, spec)
    result = residual + _linear(activated, weights.ffn_down, weights.ffn_down_bias)
    return LayerTrace(result if before else ffn_norm(result), attended, normed, activated, hidden)


def _ffn(normed: Tensor, weights: LayerTensors, activation: Activation, spec: LayerSpec) -> Tensor:
    up = _linear(normed, weights.ffn_up, weights.ffn_up_bias)
    if not spec.gated:
        return _ACTIVATIONS[activation](up)
    return _ACTIVATIONS[activation](_linear(normed, weights.ffn_gate, weights.ffn_gate_bias)) * up


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, seq, features = _sizes(x)
    # A 2-D product converts to FULLY_CONNECTED, the one operator that XNNPACK runs with int8 weights.
    flat = tf.cast(tf.reshape(x, [-1, features]), weight.dtype)
    product = tf.cast(tf.matmul(flat, weight, transpose_b=True), bias.dtype)
    if len(bias.shape) == 3:  # one for each token: its gradients are those of the product's results
        return tf.reshape(product, [batch, seq, weight.shape[0]]) + bias
    return tf.reshape(tf.nn.bias_add(product, bias), [batch, seq, weight.shape[0]])


def _turn(x: Tensor, frequencies: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021): x (batch, heads, seq, width), feature f paired with f + width / 2."""
    angles = tf.range(_sizes(x)[2], dtype=tf.float32)[:, None] * frequencies  # (seq, width / 2)
    cosine, sine = tf.cos(angles), tf.sin(angles)
    first, second = tf.split(x, 2, axis=-1)
    return tf.concat((first * cosine - second * sine, second * cosine + first * sine), -1)


def _split_heads(x: Tensor, head_width: int) -> Tensor:
    batch, seq, features = _sizes(x)
    return tf.transpose(tf.reshape(x, [batch, seq, features // head_width, head_width]), [0, 2, 1, 3])


def _join_heads(x: Tensor) -> Tensor:
    batch, heads, seq, head_width = _sizes(x)
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, seq, heads * head_width])


def _sizes(x: Tensor) -> list[Tensor]:
    """The shape: numbers where it is fixed, as graphs for export need it, tensors where it is known only when run."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape)]


def norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, kind: NormKind) -> Tensor:
    """LayerNorm or RMSNorm over the last axis; an RMSNorm has no use for beta."""
    if kind is NormKind.RMS:
        return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + eps) * gamma
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + eps) * gamma + beta
