"""Runs the float model of a store over a sample, from any layer on: what came before a change is computed once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from host.profile.batch import Batch, TokenBatch
from host.profile.embedding import embed
from host.profile.quality import Outputs
from host.profile.sample import Sample
from host.profile.stored_model import StoredModel
from host.quiet_tensorflow import tf
from host.transformer import MASKED, LayerTensors, LayerTrace, Tensor, layer_forward
from shard_store.geometry import ShardKey
from shard_store.head import HeadActivation, HeadKind, Pooling
from shard_store.layer_spec import NormPosition

Floats = npt.NDArray[np.float32]
States = tuple[Floats, ...]  # by batch: (inputs, seq, hidden)

_ACTIVATIONS: Mapping[HeadActivation, Callable[[Tensor], Tensor]] = {
    HeadActivation.NONE: lambda x: x,
    HeadActivation.TANH: tf.tanh,
    HeadActivation.RELU: tf.nn.relu,
}


class Runner:
    """One model on one sample. Keeps the hidden states before each layer of every uniform bitwidth asked for."""

    def __init__(self, model: StoredModel, sample: Sample) -> None:
        self.model = model
        self.sample = sample
        self.geometry = model.geometry
        self.masks = [_mask(batch, causal=self.geometry.spec.causal) for batch in sample.batches]
        self.first = tuple(embed(model, batch) for batch in sample.batches)
        self.before = lru_cache(2 * self.geometry.layers)(self._run_before)

    def uniform(self, bitwidth: int) -> Outputs:
        """Outputs of the whole model at one bitwidth."""
        return self.outputs(self.before(self.geometry.layers, bitwidth))

    def changed(self, base: int, key: ShardKey) -> Outputs:
        """Outputs of the model at the base bitwidth but for one shard."""
        states = self.step(self.before(key.layer, base), self.model.with_shard(base, key))
        for layer in range(key.layer + 1, self.geometry.layers):
            states = self.step(states, self.model.layer(layer, base))
        return self.outputs(states)

    def submodels(self, slices: int, bitwidth: int) -> Iterator[Outputs]:
        """Outputs after each depth of the submodel of the first slices, computed when they are asked for."""
        states = self.first
        for layer in range(self.geometry.layers):
            states = self.step(states, self.model.narrow(layer, bitwidth, slices))
            yield self.outputs(states)

    def step(self, states: States, weights: LayerTensors) -> States:
        """Hidden states behind a layer."""
        tensors = constants(weights)
        return tuple(
            np.asarray(self.layer(hidden, mask, tensors).hidden)
            for hidden, mask in zip(states, self.masks, strict=True)
        )

    def layer(self, hidden: Tensor, mask: Tensor, weights: LayerTensors) -> LayerTrace:
        """One layer on one batch."""
        geometry = self.geometry
        return layer_forward(
            tf.convert_to_tensor(hidden), tf.convert_to_tensor(mask), weights, head_width=geometry.head_width,
            activation=geometry.activation, norm_eps=geometry.norm_eps, spec=geometry.spec,
            frequencies=self.model.tensors.get("rotary.frequency"),
        )  # fmt: skip

    def outputs(self, states: States) -> Outputs:
        """The head's answers."""
        pairs = zip(states, self.sample.batches, strict=True)
        return [np.asarray(self.head(tf.convert_to_tensor(hidden), batch)) for hidden, batch in pairs]

    def head(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden (inputs, seq, hidden) to outputs (inputs, outputs), or (texts, seq or judged tokens, outputs)."""
        head, tensors = self.model.store.manifest.description.head, self.model.tensors
        if self.geometry.spec.norm_position is NormPosition.BEFORE:
            hidden = self.model.norm(hidden, "final_norm")
        if isinstance(batch, TokenBatch) and batch.judged is not None:
            judged = tf.gather(hidden, np.maximum(batch.judged, 0), batch_dims=1)  # (texts, judged tokens, hidden)
            return tf.tensordot(judged, self.model.vocabulary, [[2], [1]])
        x = hidden if head.kind is HeadKind.TOKEN_CLASSIFICATION else _pool(hidden, batch, head.pooling)
        for dense in head.layers:
            x = _ACTIVATIONS[dense.activation](
                tf.tensordot(x, tf.transpose(tensors[dense.weight]), 1) + tensors[dense.bias]
            )
        return tf.math.l2_normalize(x, -1, epsilon=1e-24) if head.normalize else x

    def _run_before(self, layer: int, bitwidth: int) -> States:
        if layer == 0:
            return self.first
        return self.step(self.before(layer - 1, bitwidth), self.model.layer(layer - 1, bitwidth))


def constants(weights: LayerTensors) -> LayerTensors:
    """The weights as TensorFlow holds them, so that they are copied once and not for each batch."""
    values = ((field.name, getattr(weights, field.name)) for field in fields(weights))
    return LayerTensors(**{name: None if value is None else tf.constant(value) for name, value in values})


def _mask(batch: Batch, *, causal: bool) -> Floats:
    """What is added to attention scores: (inputs, 1, 1, seq), or of causal layers (1, 1, seq, seq): padding is last."""
    length = batch.real.shape[1]
    unseen = np.triu(np.ones((1, 1, length, length), np.bool_), 1) if causal else ~batch.real[:, None, None]
    return np.where(unseen, np.float32(MASKED), np.float32(0))


def _pool(hidden: Tensor, batch: Batch, pooling: Pooling) -> Tensor:
    if pooling is Pooling.CLS:
        return hidden[:, 0]
    real = tf.constant(batch.real[..., None], tf.float32)
    return tf.reduce_sum(hidden * real, 1) / tf.reduce_sum(real, 1)
