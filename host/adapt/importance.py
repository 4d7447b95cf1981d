"""Sorts heads and FFN neurons, so that the first m slices are the best submodel of that width."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from host.adapt.batches import Batch
from host.adapt.model import ElasticClassifier
from host.quiet_tensorflow import tf
from host.transformer import LayerTrace, Tensor
from host.weights import LayerWeights, Linear

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LayerImportance:
    """How much the loss would change without each head and neuron of a layer."""

    heads: Scores  # (heads,)
    neurons: Scores  # (ffn,)


def measure_importance(
    model: ElasticClassifier, batches: Iterable[Batch], done: Callable[[int], None] = lambda _: None
) -> list[LayerImportance]:
    """First-order Taylor importance (Michel et al. 2019; Molchanov et al. 2017) of every layer's parts.

    For each text |output x gradient|, summed over the part's features and tokens; then the sum over all texts.
    done is told how many batches are.
    """
    geometry = model.geometry
    totals = [LayerImportance(np.zeros(geometry.heads), np.zeros(geometry.ffn)) for _ in range(geometry.layers)]
    for number, batch in enumerate(batches, start=1):
        for index, (attended, activated) in enumerate(_effects(model, batch)):
            by_head = attended.reshape(len(attended), geometry.heads, geometry.head_width).sum(-1)
            totals[index].heads[:] += np.abs(by_head).sum(0)
            totals[index].neurons[:] += np.abs(activated).sum(0)
        done(number)
    return totals


def _effects(model: ElasticClassifier, batch: Batch) -> list[tuple[Scores, Scores]]:
    """Output x gradient of each layer's attention (texts, attention) and FFN neurons (texts, ffn)."""
    traces: list[LayerTrace] = []
    with tf.GradientTape() as tape:
        hidden = batch.hidden
        tape.watch(hidden)
        for index in range(model.geometry.layers):
            traces.append(model.run_layer(index, hidden, batch.mask, model.geometry.slices))
            hidden = traces[-1].hidden
        logits = model.answer(hidden, batch.real)
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits))
    outputs = [(trace.attended, trace.activated) for trace in traces]
    slopes = tape.gradient(loss, outputs)
    return [
        (_effect(attended, slope[0]), _effect(activated, slope[1]))
        for (attended, activated), slope in zip(outputs, slopes, strict=True)
    ]


def _effect(output: Tensor, slope: Tensor) -> Scores:
    return np.asarray(tf.reduce_sum(output * slope, 1), np.float64)


def sort_layer(weights: LayerWeights, importance: LayerImportance) -> LayerWeights:
    """The same layer with its heads and neurons in order of importance: it computes what it did."""
    heads = len(importance.heads)
    rows = np.arange(len(weights.query.weight)).reshape(heads, -1)[_order(importance.heads)].ravel()
    neurons = _order(importance.neurons)
    return replace(
        weights,
        query=_rows(weights.query, rows),
        key=_rows(weights.key, rows),
        value=_rows(weights.value, rows),
        output=_columns(weights.output, rows),
        ffn_up=_rows(weights.ffn_up, neurons),
        ffn_down=_columns(weights.ffn_down, neurons),
    )


def sort_layers(layers: Sequence[LayerWeights], importance: Sequence[LayerImportance]) -> tuple[LayerWeights, ...]:
    """Every layer with its heads and neurons in order of importance."""
    return tuple(sort_layer(weights, scores) for weights, scores in zip(layers, importance, strict=True))


def _order(scores: Scores) -> npt.NDArray[np.int64]:
    return np.argsort(-scores, kind="stable")


def _rows(linear: Linear, order: npt.NDArray[np.int64]) -> Linear:
    return Linear(np.ascontiguousarray(linear.weight[order]), np.ascontiguousarray(linear.bias[order]))


def _columns(linear: Linear, order: npt.NDArray[np.int64]) -> Linear:
    return Linear(np.ascontiguousarray(linear.weight[:, order]), linear.bias)
