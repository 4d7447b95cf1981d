"""The agent's head: pooling, dense layers, normalisation."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device_agent.head import apply_head, scores_of, softmax
from host.head import Head as HostHead
from host.head import HeadDense
from shard_store.head import Head, HeadActivation, HeadKind, HeadLayer, Pooling, Scores
from tests.reference import apply_head as reference_head

Floats = npt.NDArray[np.float32]
TOKENS, FEATURES = 5, 8


def random_floats(*shape: int) -> Floats:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


TENSORS = {
    "head.0.weight": random_floats(6, FEATURES), "head.0.bias": random_floats(6),
    "head.1.weight": random_floats(3, 6), "head.1.bias": random_floats(3),
}  # fmt: skip


def head_of(kind: HeadKind, pooling: Pooling, *activations: HeadActivation, normalize: bool = False) -> Head:
    layers = tuple(
        HeadLayer(f"head.{number}.weight", f"head.{number}.bias", activation)
        for number, activation in enumerate(activations)
    )
    return Head(kind, pooling, normalize, () if kind is HeadKind.EMBEDDING else ("a", "b", "c"), layers)


def reference(head: Head, hidden: Floats) -> Floats:
    """The independent implementation, given padding that must not matter."""
    dense = tuple(HeadDense(TENSORS[one.weight], TENSORS[one.bias], one.activation) for one in head.layers)
    host = HostHead(head.kind, head.pooling, head.normalize, head.labels, None, dense)
    padded = np.concatenate([hidden, np.full((2, FEATURES), 9, np.float32)])
    answer = reference_head(host, padded[None], np.array([[1] * len(hidden) + [0, 0]]))[0]
    return np.asarray(answer[: len(hidden)] if head.kind is HeadKind.TOKEN_CLASSIFICATION else answer, np.float32)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("first", HeadActivation)
@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("kind", [HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION])
def test_heads_equal_the_reference(kind: HeadKind, pooling: Pooling, first: HeadActivation, normalize: bool) -> None:
    head, hidden = head_of(kind, pooling, first, HeadActivation.NONE, normalize=normalize), random_floats(5, 8)
    found = apply_head(hidden, head, TENSORS)
    assert found.dtype == np.float32
    assert found.shape == ((TOKENS, 3) if kind is HeadKind.TOKEN_CLASSIFICATION else (3,))
    np.testing.assert_allclose(found, reference(head, hidden), atol=1e-6)


def test_embeddings_are_pooled_and_normalised() -> None:
    hidden = random_floats(TOKENS, FEATURES)
    cls, mean = (head_of(HeadKind.EMBEDDING, pooling) for pooling in (Pooling.CLS, Pooling.MEAN))
    np.testing.assert_array_equal(apply_head(hidden, cls, {}), hidden[0])
    np.testing.assert_allclose(apply_head(hidden, mean, {}), hidden.mean(axis=0), atol=1e-7)
    unit = apply_head(hidden, replace(mean, normalize=True), {})
    np.testing.assert_allclose(unit, hidden.mean(axis=0) / np.linalg.norm(hidden.mean(axis=0)), atol=1e-6)


def test_a_zero_embedding_is_not_divided_by_zero() -> None:
    zero = np.zeros((2, FEATURES), np.float32)
    assert not apply_head(zero, head_of(HeadKind.EMBEDDING, Pooling.MEAN, normalize=True), {}).any()


@given(arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_softmax_gives_probabilities_however_large_the_logits(logits: Floats) -> None:
    found = softmax(logits)
    assert found.dtype == np.float32
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)
    np.testing.assert_array_equal(np.take_along_axis(found, logits.argmax(-1)[:, None], 1)[:, 0], found.max(axis=-1))


def test_softmax_of_known_logits() -> None:
    np.testing.assert_allclose(softmax(np.log(np.array([1, 2, 5], np.float32))), [0.125, 0.25, 0.625], atol=1e-6)


def test_scores_of_each_kind() -> None:
    logits = np.array([2.0, -1.0, 0.5], np.float32)
    assert scores_of(logits, Scores.SOFTMAX).sum() == pytest.approx(1)
    np.testing.assert_allclose(scores_of(logits, Scores.SIGMOID), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert scores_of(np.array([-1e4, 1e4], np.float32), Scores.SIGMOID).tolist() == [0.0, 1.0]
    assert scores_of(logits, Scores.NONE) is logits
