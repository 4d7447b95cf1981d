"""The one TensorFlow definition of a transformer layer: calibration, export and training all use it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from host.quiet_tensorflow import tf
from shard_store.geometry import Activation

Tensor = Any  # TensorFlow ships no usable type for tensors

MASKED = -10000.0  # added to the scores of padding, as BERT's reference implementation does

_ACTIVATIONS: Mapping[Activation, Callable[[Tensor], Tensor]] = {
    Activation.GELU: lambda x: tf.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: lambda x: tf.nn.gelu(x, approximate=True),
    Activation.RELU: tf.nn.relu,
}


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The weights of one layer, or of its first slices. Matrices are (out, in)."""

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


@dataclass(frozen=True, slots=True)
class LayerTrace:
    """A layer's result with what its matrices saw, for calibration."""

    hidden: Tensor  # (batch, seq, hidden)
    attended: Tensor  # (batch, seq, heads * head_width): input of `output`
    normed: Tensor  # (batch, seq, hidden): input of `ffn_up`
    activated: Tensor  # (batch, seq, ffn): input of `ffn_down`


def layer_forward(
    hidden: Tensor, mask: Tensor, weights: LayerTensors, *, head_width: int, activation: Activation, norm_eps: float
) -> LayerTrace:
    """Run one post-norm encoder layer (Vaswani et al. 2017; Devlin et al. 2019).

    hidden is (batch, seq, hidden); mask is (batch, 1, 1, seq), 0 for tokens and MASKED for padding.
    The number of heads follows from the height of `weights.query`, so that narrow submodels run unchanged.
    Matrices may be of a shorter float type than the biases: they are then multiplied in it, and the rest is
    computed in the biases' type (mixed precision).
    """
    query = _split_heads(_linear(hidden, weights.query, weights.query_bias), head_width)
    key = _split_heads(_linear(hidden, weights.key, weights.key_bias), head_width)
    value = _split_heads(_linear(hidden, weights.value, weights.value_bias), head_width)
    scores = tf.matmul(query, key, transpose_b=True) * head_width**-0.5 + mask  # (batch, heads, seq, seq)
    attended = _join_heads(tf.matmul(tf.nn.softmax(scores), value))
    normed = _norm(
        hidden + _linear(attended, weights.output, weights.output_bias),
        weights.attention_norm_gamma, weights.attention_norm_beta, norm_eps,
    )  # fmt: skip
    activated = _ACTIVATIONS[activation](_linear(normed, weights.ffn_up, weights.ffn_up_bias))
    result = _norm(
        normed + _linear(activated, weights.ffn_down, weights.ffn_down_bias),
        weights.ffn_norm_gamma, weights.ffn_norm_beta, norm_eps,
    )  # fmt: skip
    return LayerTrace(result, attended, normed, activated)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    batch, seq, features = _sizes(x)
    # A 2-D product converts to FULLY_CONNECTED, the one operator that XNNPACK runs with int8 weights.
    flat = tf.cast(tf.reshape(x, [-1, features]), weight.dtype)
    product = tf.cast(tf.matmul(flat, weight, transpose_b=True), bias.dtype)
    return tf.reshape(tf.nn.bias_add(product, bias), [batch, seq, weight.shape[0]])


def _split_heads(x: Tensor, head_width: int) -> Tensor:
    batch, seq, features = _sizes(x)
    return tf.transpose(tf.reshape(x, [batch, seq, features // head_width, head_width]), [0, 2, 1, 3])


def _join_heads(x: Tensor) -> Tensor:
    batch, heads, seq, head_width = _sizes(x)
    return tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch, seq, heads * head_width])


def _sizes(x: Tensor) -> list[Tensor]:
    """The shape: numbers where it is fixed, as graphs for export need it, tensors where it is known only when run."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape)]


def _norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(centred * centred, -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + eps) * gamma + beta
