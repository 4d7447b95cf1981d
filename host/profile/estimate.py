"""What every shard changes at every bitwidth, from one backward pass: Taylor's first order around the best weights.

The loss is about half the squared change of the outputs, weighted as `Quality.changes` says (for classifications the
Fisher metric: Amari, "Natural gradient works efficiently in learning", 1998). What a shard changes in an output is the
gradient with regard to a matrix's results times what the change of its weights makes of the matrix's inputs. So one
backward pass for each weighted output, and for each bitwidth one product per matrix, serve all slices and texts.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from host.profile.measure import Bench
from host.profile.quality import Quality
from host.profile.runner import Runner, constants
from host.quiet_tensorflow import tf
from host.transformer import LayerTensors, Tensor
from shard_store.geometry import Cut, SliceMatrix
from shard_store.head import Scores

Floats = npt.NDArray[np.float32]
_PROBES = 4  # random combinations, where there are more outputs
_INPUTS = {"output": "attended", "ffn_up": "normed", "ffn_gate": "normed", "ffn_down": "activated"}


def estimated_changes(bench: Bench) -> dict[int, Floats]:
    """By bitwidth below the best: changes (shards, texts, n), as `Quality.changes` gives them for each shard alone."""
    runner, model, geometry = bench.runner, bench.runner.model, bench.runner.geometry
    gradients = _output_gradients(bench)
    found: dict[int, list[Floats]] = {bitwidth: [] for bitwidth in bench.lower}  # from the last layer to the first
    for layer in reversed(range(geometry.layers)):
        best = model.layer(layer, bench.best)
        seen = []
        for number, hidden in enumerate(runner.before(layer, bench.best)):
            seen.append(_Seen(runner, hidden, number, constants(best), gradients[number]))
            gradients[number] = seen[-1].hidden_gradients
        for bitwidth in bench.lower:
            lowered = model.decode_layer(layer, bitwidth)
            found[bitwidth].append(np.concatenate([one.changes(lowered, best) for one in seen], axis=1))
    return {bitwidth: np.concatenate(parts[::-1]) for bitwidth, parts in found.items()}


def _output_gradients(bench: Bench) -> list[list[Tensor]]:
    """By batch and weighted output: the gradient (texts, seq, hidden) with regard to the last hidden states."""
    runner = bench.runner
    gradients = []
    states = runner.before(runner.geometry.layers, bench.best)
    for hidden, batch, reference in zip(states, runner.sample.batches, bench.quality.reference, strict=True):
        watched = tf.constant(hidden)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(watched)
            weighted = _weighted(runner.head(watched, batch), reference, batch.answers, bench.quality)
            sums = [tf.reduce_sum(one) for one in weighted]
        gradients.append([tape.gradient(one, watched) for one in sums])
    return gradients


def _weighted(outputs: Tensor, reference: Floats, real: npt.NDArray[np.bool_], quality: Quality) -> list[Tensor]:
    """Combinations (texts,) of outputs whose squared changes sum up to twice the loss, on average."""
    kind = quality.kind
    if kind == Scores.SOFTMAX.value and reference.shape[-1] == 2:  # both differences are one
        expected = tf.nn.softmax(reference)
        root = tf.sqrt(expected[..., :1] * expected[..., 1:]) * (outputs[..., :1] - outputs[..., 1:])
    elif kind == Scores.SOFTMAX.value:
        expected = tf.nn.softmax(reference)
        root = tf.sqrt(expected) * (outputs - tf.reduce_sum(expected * outputs, -1, keepdims=True))
    elif kind == Scores.SIGMOID.value:
        expected = tf.sigmoid(reference)
        root = tf.sqrt(expected * (1 - expected)) * outputs
    else:
        root = tf.math.l2_normalize(outputs, -1) if kind == "embedding" else outputs / quality.spread
    if len(root.shape) == 3:
        root *= np.sqrt(real / real.sum(1, keepdims=True))[..., None].astype(np.float32)
    flat = tf.reshape(root, [len(reference), -1])
    if flat.shape[1] <= _PROBES:
        return list(tf.unstack(flat, axis=1))
    signs = np.random.default_rng(0).integers(0, 2, (flat.shape[1], _PROBES)) * 2 - 1
    return list(tf.unstack(flat @ tf.constant(signs / np.sqrt(_PROBES), tf.float32), axis=1))


class _Seen:
    """One batch at one layer: inputs of its matrices, and the gradients with regard to their results."""

    def __init__(
        self, runner: Runner, hidden: Floats, number: int, weights: LayerTensors, gradients: Sequence[Tensor]
    ) -> None:
        self._matrices, self._slices = runner.geometry.slice_matrices, runner.geometry.slices
        watched = tf.constant(hidden)
        biases = {
            f"{matrix.name}_bias": tf.broadcast_to(
                getattr(weights, f"{matrix.name}_bias"), (*hidden.shape[:2], *getattr(weights, matrix.name).shape[:1])
            )
            for matrix in self._matrices
        }  # (texts, seq, rows): one for each token, so that each result has a gradient of its own
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([watched, *biases.values()])
            trace = runner.layer(watched, runner.masks[number], replace(weights, **biases))
        self._trace = trace
        found = [tape.gradient(trace.hidden, [watched, *biases.values()], output_gradients=one) for one in gradients]
        self.hidden_gradients = [one[0] for one in found]
        self._gradients = [dict(zip(biases, one[1:], strict=True)) for one in found]

    def changes(self, lowered: LayerTensors, best: LayerTensors) -> Floats:
        """What each slice changes in the weighted outputs: (slices, texts, n)."""
        changes = [
            sum(self._of_matrix(matrix, lowered, best, one[f"{matrix.name}_bias"]) for matrix in self._matrices)
            for one in self._gradients
        ]
        return np.stack(changes, axis=-1).swapaxes(0, 1)

    def _of_matrix(self, matrix: SliceMatrix, lowered: LayerTensors, best: LayerTensors, gradient: Tensor) -> Floats:
        """(texts, slices)"""
        difference = tf.constant(getattr(lowered, matrix.name) - getattr(best, matrix.name))  # (out, in)
        inputs = getattr(self._trace, _INPUTS.get(matrix.name, "projected"))  # (texts, seq, in)
        texts, seq = inputs.shape[:2]
        inputs, gradient = (tf.reshape(values, [texts * seq, -1]) for values in (inputs, gradient))
        if matrix.cut is Cut.ROWS:
            products = tf.matmul(inputs, difference, transpose_b=True) * gradient
        else:
            products = tf.matmul(gradient, difference) * inputs
        by_slice = tf.reshape(products, [texts, seq, self._slices, -1])
        return np.asarray(tf.reduce_sum(by_slice, [1, 3]))
