"""The oracle's own switches; its agreement with transformers is tested in test_checkpoint."""

from dataclasses import replace

import numpy as np

from host.checkpoint import load_checkpoint
from host.weights import LayerWeights, Linear
from tests.model_copies import GOLDEN
from tests.reference import reference_forward, round_to_int8

IDS = [[2, 5, 6, 7, 3]]


def test_rounding_keeps_zero_and_the_range() -> None:
    x = np.array([[-1.0, 0.0, 0.3, 3.0], [2.0, 4.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    rounded = round_to_int8(x)
    assert rounded.dtype == np.float32
    assert np.all(rounded[x == 0] == 0)
    steps = (x.max(axis=-1) - x.min(axis=-1).clip(max=0)) / 255
    assert np.all(np.abs(rounded - x).max(axis=-1) <= steps * 1.001)
    assert np.any(rounded != x)


def test_rounding_matches_hand_computed_codes() -> None:
    # scale 255 / 2.55 = 100; zero point -128 + 155 = 27; 0.123 -> 12.3 -> 12, -0.567 -> -56.7 -> -57
    x = np.array([[-1.55, 0.123, -0.567, 1.0]], np.float32)
    np.testing.assert_allclose(round_to_int8(x), [[-1.55, 0.12, -0.57, 1.0]], atol=1e-6)


def test_int8_activations_move_the_output_a_little() -> None:
    checkpoint = load_checkpoint(GOLDEN / "bert-embedding")
    exact = reference_forward(checkpoint, IDS)
    rounded = reference_forward(checkpoint, IDS, int8_activations=True)
    difference = np.abs(rounded.hidden[-1] - exact.hidden[-1]).max()
    assert 1e-3 < difference < 0.2
    np.testing.assert_array_equal(rounded.embedded, exact.embedded)


def test_padding_changes_nothing() -> None:
    checkpoint = load_checkpoint(GOLDEN / "roberta-embedding")
    plain = reference_forward(checkpoint, IDS)
    padded = reference_forward(checkpoint, [[*IDS[0], 1, 1]], mask=[[1, 1, 1, 1, 1, 0, 0]])
    np.testing.assert_allclose(padded.output, plain.output, atol=1e-6)


def test_kept_slices_are_as_if_the_rest_were_zero() -> None:
    checkpoint = load_checkpoint(GOLDEN / "bert-sequence")

    def silence(index: int, weights: LayerWeights) -> LayerWeights:
        output, down = weights.output.weight.copy(), weights.ffn_down.weight.copy()
        output[:, 8:] = 0  # all but the first of 4 heads
        down[:, 12:] = 0
        return replace(
            weights, output=Linear(output, weights.output.bias), ffn_down=Linear(down, weights.ffn_down.bias)
        )

    kept = reference_forward(checkpoint, IDS, kept_slices=1)
    silenced = reference_forward(checkpoint, IDS, replace_layer=silence)
    np.testing.assert_allclose(kept.output, silenced.output, atol=1e-5)
    two_of_four = reference_forward(checkpoint, IDS, kept_slices=2)
    one_of_two = reference_forward(checkpoint, IDS, kept_slices=1, slices=2)
    np.testing.assert_array_equal(two_of_four.output, one_of_two.output)


def test_chosen_layers_run() -> None:
    checkpoint = load_checkpoint(GOLDEN / "distilbert-sequence")
    whole = reference_forward(checkpoint, IDS)
    first = reference_forward(checkpoint, IDS, layers=[0])
    assert len(first.hidden) == 1
    np.testing.assert_array_equal(first.hidden[0], whole.hidden[0])
    second = reference_forward(checkpoint, IDS, layers=[1])
    assert np.abs(second.hidden[0] - whole.hidden[1]).max() > 1e-2
