"""Weights on their way from a checkpoint into training and out of it again."""

import numpy as np

from host.adapt.model import ClassifierWeights, ElasticClassifier, values_of
from host.checkpoint import Checkpoint
from host.weights import Float32Array, LayerNorm, LayerWeights, Linear
from shard_store.head import HeadKind

_INITIAL_DEVIATION = 0.02  # of a new head's weights, as transformers starts them


def read_weights(checkpoint: Checkpoint, labels: int | None = None, seed: int = 0) -> ClassifierWeights:
    """Every layer and the head; where there is none, one for so many labels, at random.

    Raises:
        CheckpointError: a value is not finite.
    """
    layers = tuple(checkpoint.layer(index) for index in range(checkpoint.config.layers))
    head = tuple((dense.weight, dense.bias) for dense in checkpoint.head.dense)
    return ClassifierWeights(layers, head if labels is None else _new_head(checkpoint, labels, seed))


def _new_head(checkpoint: Checkpoint, labels: int, seed: int) -> tuple[tuple[Float32Array, Float32Array], ...]:
    generator = np.random.default_rng(seed)
    hidden = checkpoint.config.hidden
    entries = checkpoint.layout.head_names(HeadKind.SEQUENCE_CLASSIFICATION)
    rows = (*(hidden for _ in entries[:-1]), labels)
    return tuple(
        (
            generator.normal(0, _INITIAL_DEVIATION, (count, hidden)).astype(np.float32),
            np.zeros(count, np.float32),
        )
        for count in rows
    )


def trained_weights(model: ElasticClassifier) -> ClassifierWeights:
    """What a model's variables hold now."""
    values = values_of(model.variables)
    layers = []
    for index in range(model.geometry.layers):

        def linear(name: str, prefix: str = f"layer.{index}") -> Linear:
            return Linear(values[f"{prefix}.{name}"], values[f"{prefix}.{name}_bias"])

        def norm(name: str, prefix: str = f"layer.{index}") -> LayerNorm:
            return LayerNorm(values[f"{prefix}.{name}_gamma"], values[f"{prefix}.{name}_beta"])

        layer = LayerWeights(
            linear("query"), linear("key"), linear("value"), linear("output"),
            linear("ffn_up"), linear("ffn_down"), norm("attention_norm"), norm("ffn_norm"),
        )  # fmt: skip
        layers.append(layer)
    head = [name for name in values if name.startswith("head.") and name.endswith(".weight")]
    return ClassifierWeights(
        tuple(layers), tuple((values[name], values[name.replace(".weight", ".bias")]) for name in head)
    )
