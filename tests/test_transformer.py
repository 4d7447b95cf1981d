"""The TensorFlow layer against the independent numpy one."""

import numpy as np
import numpy.typing as npt
import pytest

from host.capture import layer_tensors
from host.quiet_tensorflow import tf
from host.transformer import MASKED, LayerTrace, layer_forward
from shard_store.geometry import Activation, Geometry
from tests.layers import random_layer
from tests.reference import Floats, activate, as_float32, first_slices, run_layer

GEOMETRY = Geometry(1, 48, 6, 72, 3, Activation.GELU, 1e-5)
BATCH, SEQUENCE, PADDING = 2, 9, 3

HIDDEN = np.random.default_rng(1).standard_normal((BATCH, SEQUENCE, GEOMETRY.hidden), dtype=np.float32)
PRESENT = np.ones((BATCH, SEQUENCE), np.int64)
PRESENT[1, SEQUENCE - PADDING :] = 0


def forward(activation: Activation, slices: int = GEOMETRY.slices, hidden: object = HIDDEN) -> LayerTrace:
    mask = np.where(PRESENT != 0, np.float32(0), np.float32(MASKED))[:, None, None, :]
    weights = layer_tensors(first_slices(random_layer(GEOMETRY), GEOMETRY, slices))
    return layer_forward(
        tf.constant(hidden), tf.constant(mask), weights,
        head_width=GEOMETRY.head_width, activation=activation, norm_eps=GEOMETRY.norm_eps,
    )  # fmt: skip


@pytest.mark.parametrize("slices", [1, 2, 3])
@pytest.mark.parametrize("activation", Activation)
def test_the_layer_equals_the_reference(activation: Activation, slices: int) -> None:
    geometry = Geometry(1, 48, 6, 72, 3, activation, 1e-5)
    expected = run_layer(first_slices(random_layer(geometry), geometry, slices), geometry, HIDDEN, PRESENT)
    np.testing.assert_allclose(np.asarray(forward(activation, slices).hidden), expected, atol=1e-5)


def test_activations_differ() -> None:
    results = [np.asarray(forward(activation).hidden) for activation in Activation]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(results[one] - results[other]).max() > 1e-5


def test_what_padding_holds_does_not_reach_the_tokens() -> None:
    other = HIDDEN.copy()
    other[1, SEQUENCE - PADDING :] = 50.0
    one, two = (np.asarray(forward(Activation.GELU, hidden=hidden).hidden) for hidden in (HIDDEN, other))
    np.testing.assert_allclose(one[PRESENT != 0], two[PRESENT != 0], atol=1e-5)
    assert np.abs(one - two).max() > 0.1


def test_the_trace_holds_what_the_matrices_saw() -> None:
    weights, trace = random_layer(GEOMETRY), forward(Activation.GELU)
    normed = np.asarray(trace.normed)
    inner = activate(normed @ weights.ffn_up.weight.T + weights.ffn_up.bias, Activation.GELU)
    np.testing.assert_allclose(np.asarray(trace.activated), inner, atol=1e-5)

    def norm(values: npt.ArrayLike) -> Floats:
        x = as_float32(values)
        return as_float32((x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + GEOMETRY.norm_eps))

    summed = HIDDEN + np.asarray(trace.attended) @ weights.output.weight.T + weights.output.bias
    expected = norm(summed) * weights.attention_norm.gamma + weights.attention_norm.beta
    np.testing.assert_allclose(normed, expected, atol=1e-5)
    summed = normed + inner @ weights.ffn_down.weight.T + weights.ffn_down.bias
    expected = norm(summed) * weights.ffn_norm.gamma + weights.ffn_norm.beta
    np.testing.assert_allclose(np.asarray(trace.hidden), expected, atol=1e-5)
