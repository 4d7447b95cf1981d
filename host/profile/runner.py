"""Runs the float model of a store over a sample, from any layer on: what came before a change is computed once."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from host.profile.quality import Outputs
from host.profile.sample import Sample, TokenBatch
from host.profile.stored_model import StoredModel
from host.quiet_tensorflow import tf
from host.transformer import MASKED, LayerTensors, LayerTrace, Tensor, layer_forward, norm
from shard_store.geometry import ShardKey
from shard_store.head import HeadActivation, HeadKind, Pooling
from shard_store.layer_spec import NormPosition

Floats = npt.NDArray[np.float32]
States = tuple[Floats, ...]  # by batch: (texts, seq, hidden)

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
        self.masks = [
            np.where(batch.real, np.float32(0), np.float32(MASKED))[:, None, None, :] for batch in sample.batches
        ]
        self.first = tuple(self._embed(batch) for batch in sample.batches)
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

    def submodels(self, slices: int, bitwidth: int) -> list[Outputs]:
        """Outputs after each depth of the submodel of the first slices."""
        states, found = self.first, []
        for layer in range(self.geometry.layers):
            states = self.step(states, self.model.narrow(layer, bitwidth, slices))
            found.append(self.outputs(states))
        return found

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
        )  # fmt: skip

    def outputs(self, states: States) -> Outputs:
        """The head's answers."""
        pairs = zip(states, self.sample.batches, strict=True)
        return [np.asarray(self.head(tf.convert_to_tensor(hidden), batch)) for hidden, batch in pairs]

    def head(self, hidden: Tensor, batch: TokenBatch) -> Tensor:
        """hidden (texts, seq, hidden) to outputs (texts, outputs), or (texts, seq, outputs) of tokens."""
        head, tensors, geometry = self.model.store.manifest.description.head, self.model.tensors, self.geometry
        if geometry.spec.norm_position is NormPosition.BEFORE:
            hidden = self._norm(hidden, "final_norm")
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

    def _embed(self, batch: TokenBatch) -> Floats:
        store = self.model.store
        description, shape = store.manifest.description, (*batch.ids.shape, self.geometry.hidden)
        positions = np.arange(batch.ids.shape[1]) + description.position_offset
        summed = store.rows("word", batch.ids.reshape(-1)).reshape(shape) + store.rows("position", positions)
        if "token_type" in store.manifest.row_tables:
            summed += store.rows("token_type", batch.types.reshape(-1)).reshape(shape)
        if self.geometry.spec.norm_position is NormPosition.BEFORE:
            return summed
        return np.asarray(self._norm(summed, "embedding_norm"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gamma, beta = self.model.tensors[f"{name}.gamma"], self.model.tensors.get(f"{name}.beta")
        return norm(tf.convert_to_tensor(x), gamma, beta, self.geometry.norm_eps, self.geometry.spec.norm_kind)


def constants(weights: LayerTensors) -> LayerTensors:
    """The weights as TensorFlow holds them, so that they are copied once and not for each batch."""
    values = ((field.name, getattr(weights, field.name)) for field in fields(weights))
    return LayerTensors(**{name: None if value is None else tf.constant(value) for name, value in values})


def _pool(hidden: Tensor, batch: TokenBatch, pooling: Pooling) -> Tensor:
    if pooling is Pooling.CLS:
        return hidden[:, 0]
    real = tf.constant(batch.real[..., None], tf.float32)
    return tf.reduce_sum(hidden * real, 1) / tf.reduce_sum(real, 1)
