"""Submodels, importance, objectives, batches and the optimizer of elastic fine-tuning."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from host.adapt.batches import Batch, BatchSource
from host.adapt.importance import LayerImportance, measure_importance, sort_layer
from host.adapt.model import ClassifierWeights, ElasticClassifier
from host.adapt.objective import Submodels
from host.adapt.optimizer import AdamW
from host.adapt.options import Precision
from host.adapt.trained_weights import read_weights, trained_weights
from host.checkpoint import Checkpoint, load_checkpoint
from host.embedder import Embedder
from host.labelled_texts import LabelledTexts
from host.quiet_tensorflow import tf
from host.weights import Linear
from tests.adapting import EXAMPLES, classifier_of, source_of
from tests.layers import random_layer
from tests.reference import Floats, reference_forward

FAMILIES = ("bert-sequence", "distilbert-sequence", "roberta-sequence")


@pytest.fixture
def bert(golden_models: Path) -> Checkpoint:
    return load_checkpoint(golden_models / "bert-sequence")


def logits(model: ElasticClassifier, batch: Batch, slices: int, layers: tuple[int, ...]) -> Floats:
    return np.asarray(model.logits(batch, slices, [layers])[0])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("slices", "layers"), [(1, (0,)), (1, (0, 1)), (2, (1,)), (2, (0, 1))])
def test_submodels_equal_the_reference(name: str, slices: int, layers: tuple[int, ...], golden_models: Path) -> None:
    checkpoint = load_checkpoint(golden_models / name)
    source = source_of(checkpoint)
    found = logits(classifier_of(checkpoint), source.batch(range(4)), slices, layers)
    for row, tokens in enumerate(source._tokens[:4]):
        expected = reference_forward(
            checkpoint, tokens.ids[None], tokens.types[None], layers=layers, kept_slices=slices, slices=2
        )
        np.testing.assert_allclose(found[row], expected.output[0], atol=1e-5)


def test_bfloat16_is_close(bert: Checkpoint) -> None:
    batch = source_of(bert).batch(range(8))
    exact, rounded = (logits(classifier_of(bert, 2, kind), batch, 2, (0, 1)) for kind in list(Precision)[1:])
    assert 0 < np.abs(exact - rounded).max() < 0.05


def test_sorting_leaves_the_whole_model_as_it_was(golden_models: Path) -> None:
    generator = np.random.default_rng(3)
    for name in FAMILIES:
        checkpoint = load_checkpoint(golden_models / name)
        model, batch = classifier_of(checkpoint), source_of(checkpoint).batch(range(8))
        before = logits(model, batch, 2, (0, 1))
        weights = read_weights(checkpoint)
        sizes = model.geometry
        scores = LayerImportance(generator.random(sizes.heads), generator.random(sizes.ffn))
        layers = tuple(sort_layer(layer, scores) for layer in weights.layers)
        assert not np.array_equal(layers[0].query.weight, weights.layers[0].query.weight)
        sorted_model = classifier_of(checkpoint, weights=ClassifierWeights(layers, weights.head))
        np.testing.assert_allclose(logits(sorted_model, batch, 2, (0, 1)), before, atol=1e-5)
        assert np.abs(logits(sorted_model, batch, 1, (0, 1)) - logits(model, batch, 1, (0, 1))).max() > 1e-4


def test_the_most_important_come_first(bert: Checkpoint) -> None:
    weights, sizes = random_layer(bert.geometry()), bert.geometry()
    scores = LayerImportance(np.arange(sizes.heads, dtype=float), np.arange(sizes.ffn, dtype=float))
    found = sort_layer(weights, scores)
    width = sizes.head_width
    np.testing.assert_array_equal(found.key.weight[:width], weights.key.weight[-width:])
    np.testing.assert_array_equal(found.output.weight[:, :width], weights.output.weight[:, -width:])
    np.testing.assert_array_equal(found.ffn_up.bias, weights.ffn_up.bias[::-1])
    np.testing.assert_array_equal(found.ffn_down.weight, weights.ffn_down.weight[:, ::-1])


def test_what_changes_nothing_has_no_importance(bert: Checkpoint) -> None:
    weights, width = read_weights(bert), bert.geometry().head_width
    output, down = weights.layers[1].output.weight.copy(), weights.layers[1].ffn_down.weight.copy()
    output[:, width : 2 * width] = 0  # head 1
    down[:, 5] = 0
    layer = replace(
        weights.layers[1],
        output=Linear(output, weights.layers[1].output.bias),
        ffn_down=Linear(down, weights.layers[1].ffn_down.bias),
    )
    model = classifier_of(bert, 4, weights=ClassifierWeights((weights.layers[0], layer), weights.head))
    counts: list[int] = []
    scores = measure_importance(model, islice(source_of(bert).shuffled(8, 0, 0), 3), counts.append)
    assert counts == [1, 2, 3]
    assert np.flatnonzero(scores[1].heads == 0).tolist() == [1]
    assert np.flatnonzero(scores[1].neurons == 0).tolist() == [5]
    assert (scores[0].heads > 0).all()


def test_importance_predicts_the_loss_without_a_neuron(bert: Checkpoint) -> None:
    """The first-order estimate of one text, against the loss when the neuron's output is scaled down a little."""
    model, batch = classifier_of(bert, 4), source_of(bert).batch([0])
    scores = measure_importance(model, [batch])

    def loss(weights: ClassifierWeights) -> float:
        other = classifier_of(bert, 4, weights=weights)
        answer = other.logits(batch, 4, [(0, 1)])[0]
        return float(tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, answer)[0])

    weights = read_weights(bert)
    neuron, step = int(np.argmax(scores[0].neurons)), 0.02
    down = weights.layers[0].ffn_down.weight.copy()
    down[:, neuron] *= 1 - step
    layer = replace(weights.layers[0], ffn_down=Linear(down, weights.layers[0].ffn_down.bias))
    change = loss(ClassifierWeights((layer, weights.layers[1]), weights.head)) - loss(weights)
    assert abs(change) / step == pytest.approx(scores[0].neurons[neuron], rel=0.1)


def test_weights_come_back_from_the_variables(bert: Checkpoint) -> None:
    before, after = read_weights(bert), trained_weights(classifier_of(bert))
    for one, other in zip(before.layers, after.layers, strict=True):
        np.testing.assert_array_equal(one.ffn_down.weight, other.ffn_down.weight)
        np.testing.assert_array_equal(one.value.bias, other.value.bias)
        np.testing.assert_array_equal(one.ffn_norm.beta, other.ffn_norm.beta)
    for (weight, bias), (other_weight, other_bias) in zip(before.head, after.head, strict=True):
        np.testing.assert_array_equal(weight, other_weight)
        np.testing.assert_array_equal(bias, other_bias)


def test_every_step_trains_the_full_width_and_all_come_up(bert: Checkpoint) -> None:
    model = classifier_of(bert, 4)
    objective = Submodels(model, model, [(0,), (0, 1)], small=1, seed=0)
    widths = [objective.widths(step) for step in range(40)]
    assert all(step[0] == 4 and step[-1] == 1 for step in widths)
    assert {slices for step in widths for slices in step} == {1, 2, 3, 4}
    assert widths == [objective.widths(step) for step in range(40)]


def test_a_model_is_its_own_best_teacher(bert: Checkpoint) -> None:
    """Where student and teacher are one model, only the labels pull at the whole model."""
    model, batch = classifier_of(bert, 1), source_of(bert).batch(range(8))
    objective = Submodels(model, model, [(0, 1)], small=1, seed=0)
    result = objective.gradients(0, batch)
    by_label = tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, model.logits(batch, 1, [(0, 1)])[0])
    )
    assert result.loss == pytest.approx(0.3 * float(by_label), rel=1e-4)
    assert len(result.gradients) == len(model.variables)


def test_batches_do_not_depend_on_where_they_start(bert: Checkpoint) -> None:
    source = source_of(bert)
    whole = [batch.labels.numpy().tolist() for batch in islice(source.shuffled(8, 1, 0), 20)]
    late = [batch.labels.numpy().tolist() for batch in islice(source.shuffled(8, 1, 11), 9)]
    assert whole[11:] == late
    other = [batch.labels.numpy().tolist() for batch in islice(source.shuffled(8, 2, 0), 20)]
    assert whole != other


def test_an_epoch_holds_every_text_once(bert: Checkpoint) -> None:
    source = source_of(bert)
    rows = np.concatenate(source._epoch(8, 0, 0))
    assert sorted(rows.tolist()) == list(range(len(EXAMPLES.texts)))
    assert rows.tolist() != np.concatenate(source._epoch(8, 0, 1)).tolist()
    seen = sum(len(batch.labels) for batch in source.in_order_of_length(7))
    assert seen == len(source)


def test_texts_are_cut_and_padded(bert: Checkpoint) -> None:
    source = BatchSource(bert, Embedder.of(bert), EXAMPLES, 5)
    batch = source.batch(range(6))
    assert batch.hidden.shape == (6, 5, 32)
    np.testing.assert_array_equal(np.asarray(batch.mask)[:, 0, 0] == 0, np.asarray(batch.real) == 1)


def test_pairs_carry_their_token_types(bert: Checkpoint) -> None:
    data = LabelledTexts((("the cat", "a dull mat"), ("good", "bad")), (0, 1))
    source = BatchSource(bert, Embedder.of(bert), data, 16)
    found = logits(classifier_of(bert), source.batch([0]), 2, (0, 1))
    tokens = source._tokens[0]
    assert tokens.types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    np.testing.assert_allclose(found, reference_forward(bert, tokens.ids[None], tokens.types[None]).output, atol=1e-5)


def test_the_optimizer_equals_its_formula() -> None:
    matrix, bias = np.full((2, 3), 0.5, np.float32), np.full(3, 0.5, np.float32)
    variables = {"matrix": tf.Variable(matrix), "bias": tf.Variable(bias)}
    optimizer = AdamW(variables, steps=10, learning_rate=0.1)
    mean, square, gradient = 0.0, 0.0, 0.1
    decayed, plain = 0.5, 0.5
    for step in range(3):
        optimizer.step(step, [tf.fill((2, 3), gradient), tf.fill((3,), gradient)])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.98 * square + 0.02 * gradient**2
        rate = optimizer.learning_rate(step)
        change = rate * (mean / (1 - 0.9 ** (step + 1))) / (np.sqrt(square / (1 - 0.98 ** (step + 1))) + 1e-6)
        decayed, plain = decayed * (1 - 0.01 * rate) - change, plain - change
    np.testing.assert_allclose(variables["matrix"], decayed, rtol=1e-4)
    np.testing.assert_allclose(variables["bias"], plain, rtol=1e-4)


def test_large_gradients_are_clipped() -> None:
    variable = tf.Variable(np.zeros(4, np.float32))
    optimizer = AdamW({"x": variable}, steps=10, learning_rate=0.1)
    optimizer.step(0, [tf.fill((4,), 100.0)])
    np.testing.assert_allclose(optimizer.state["mean.x"], 0.05, rtol=1e-4)  # 0.1 x (norm 1 over 4 entries)


def test_the_learning_rate_rises_and_falls() -> None:
    optimizer = AdamW({}, steps=100, learning_rate=1.0)
    rates = [optimizer.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 6)
    assert max(rates) == rates[5] == pytest.approx(1.0)
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert 0 < rates[-1] < 0.02
