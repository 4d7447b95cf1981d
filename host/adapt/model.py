"""A classifier whose layers can be cut to their first slices and left out, in TensorFlow variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from host.adapt.batches import Batch
from host.adapt.options import LayerChoice, Precision
from host.capture import layer_tensors
from host.families import DenseName
from host.quiet_tensorflow import tf
from host.transformer import LayerTensors, LayerTrace, Tensor, layer_forward
from host.weights import Float32Array, LayerWeights
from shard_store.geometry import Geometry
from shard_store.head import HeadActivation, Pooling

_ACTIVATIONS = {HeadActivation.NONE: tf.identity, HeadActivation.TANH: tf.tanh, HeadActivation.RELU: tf.nn.relu}
_ROW_CUT = ("query", "key", "value", "query_bias", "key_bias", "value_bias")
_MATRICES = ("query", "key", "value", "output", "ffn_up", "ffn_down")


@dataclass(frozen=True, slots=True)
class ClassifierWeights:
    """What training starts from and ends with; the embeddings are not trained."""

    layers: tuple[LayerWeights, ...]
    head: tuple[tuple[Float32Array, Float32Array], ...]  # weight (out, in) and bias (out,) of each dense layer


class ElasticClassifier:
    """The body and the head; the embeddings come with the batches."""

    def __init__(
        self, weights: ClassifierWeights, head: Sequence[DenseName], geometry: Geometry, *,
        pooling: Pooling, precision: Precision,
    ) -> None:  # fmt: skip
        self.geometry = geometry
        self._pooling = pooling
        self._type = tf.bfloat16 if precision is Precision.BFLOAT16 else tf.float32
        self._layers = [_variables(layer_tensors(layer)) for layer in weights.layers]
        self._head = [
            (tf.Variable(weight), tf.Variable(bias), _ACTIVATIONS[entry.activation])
            for (weight, bias), entry in zip(weights.head, head, strict=True)
        ]

    @property
    def variables(self) -> Mapping[str, Tensor]:
        """Everything that is trained, by name: "layer.0.query", "head.1.bias"."""
        named = {
            f"layer.{index}.{name}": variable
            for index, layer in enumerate(self._layers)
            for name, variable in _present(layer).items()
        }
        for index, (weight, bias, _) in enumerate(self._head):
            named |= {f"head.{index}.weight": weight, f"head.{index}.bias": bias}
        return named

    def logits(self, batch: Batch, slices: int, choices: Sequence[LayerChoice]) -> list[Tensor]:
        """The logits (texts, labels) of the submodel of each layer choice; what they share is computed once."""
        hidden: dict[LayerChoice, Tensor] = {(): batch.hidden}
        for choice in choices:
            for depth, layer in enumerate(choice):
                if choice[: depth + 1] not in hidden:
                    trace = self.run_layer(layer, hidden[choice[:depth]], batch.mask, slices)
                    hidden[choice[: depth + 1]] = trace.hidden
        return [self.answer(hidden[choice], batch.real) for choice in choices]

    def run_layer(self, index: int, hidden: Tensor, mask: Tensor, slices: int) -> LayerTrace:
        """One layer's first slices."""
        geometry = self.geometry
        return layer_forward(
            hidden, mask, self._narrow(self._layers[index], slices),
            head_width=geometry.head_width, activation=geometry.activation, norm_eps=geometry.norm_eps,
        )  # fmt: skip

    def answer(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Pool hidden states (texts, seq, hidden) and apply the head: logits (texts, labels)."""
        if self._pooling is Pooling.CLS:
            pooled = hidden[:, 0]
        else:
            weight = tf.cast(real, hidden.dtype)[:, :, None]
            pooled = tf.reduce_sum(hidden * weight, 1) / tf.reduce_sum(weight, 1)
        for weight, bias, activation in self._head:
            pooled = activation(tf.matmul(pooled, weight, transpose_b=True) + bias)
        return pooled

    def _narrow(self, layer: LayerTensors, slices: int) -> LayerTensors:
        rows, neurons = slices * self.geometry.slice_attention, slices * self.geometry.slice_ffn
        tensors = {name: tf.convert_to_tensor(variable) for name, variable in _present(layer).items()}
        if slices < self.geometry.slices:
            tensors |= {name: tensors[name][:rows] for name in _ROW_CUT}
            tensors |= {name: tensors[name][:neurons] for name in ("ffn_up", "ffn_up_bias")}
            tensors |= {"output": tensors["output"][:, :rows], "ffn_down": tensors["ffn_down"][:, :neurons]}
        return LayerTensors(**tensors | {name: tf.cast(tensors[name], self._type) for name in _MATRICES})


def _variables(layer: LayerTensors) -> LayerTensors:
    return LayerTensors(**{name: tf.Variable(values) for name, values in _present(layer).items()})


def _present(layer: LayerTensors) -> dict[str, Tensor]:
    """What an encoder's layer has."""
    named = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def values_of(variables: Mapping[str, Tensor]) -> dict[str, Float32Array]:
    """The present values of variables."""
    return {name: np.asarray(variable) for name, variable in variables.items()}
