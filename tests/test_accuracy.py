"""Accuracy on real models and data, through the engine: what each bitwidth keeps of full precision."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from device_agent.engine import Engine
from shard_store.geometry import BITWIDTHS
from tests.packaging import package_quietly

CALIBRATION_TEXTS = 512
Floats = npt.NDArray[np.float32]


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text("utf-8").splitlines()]


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: the correlation of the ranks, ties sharing their mean rank."""

    def ranks(values: Floats) -> npt.NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[inverse]

    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


@pytest.fixture(scope="module")
def sentence_pairs(shared: Path) -> tuple[list[str], list[str], Floats]:
    """STS-B dev: first sentences, second sentences, scores."""
    pairs = rows(shared / "data" / "stsb" / "dev.tsv")
    return [p[5] for p in pairs], [p[6] for p in pairs], np.array([float(p[4]) for p in pairs], np.float32)


def test_embeddings_keep_their_directions_and_their_ranking(
    minilm_store: Path, sentence_pairs: tuple[list[str], list[str], Floats]
) -> None:
    first, second, scores = sentence_pairs
    similarity, vectors = {}, {}
    with Engine(minilm_store) as engine:
        for bits in BITWIDTHS:
            one, other = (np.array(engine.answer(side, engine.uniform_plan(bits)).outputs) for side in (first, second))
            vectors[bits] = one
            similarity[bits] = rank_correlation((one * other).sum(axis=1), scores)
    print({bits: round(value, 4) for bits, value in similarity.items()})
    cosines = (vectors[8][:200] * vectors[32][:200]).sum(axis=1)
    assert similarity[32] == pytest.approx(0.867, abs=0.001)
    assert cosines.mean() >= 0.998
    assert abs(similarity[8] - similarity[32]) <= 0.003
    for bits in (3, 4, 5, 6):
        assert abs(similarity[bits] - similarity[32]) <= 0.02, bits
    assert similarity[2] > 0.7


@pytest.fixture(scope="module")
def sentiment(shared: Path) -> tuple[list[str], npt.NDArray[np.int64]]:
    """SST-2 dev: sentences and labels."""
    examples = rows(shared / "data" / "sst2" / "dev.tsv")[1:]
    return [example[0] for example in examples], np.array([int(example[1]) for example in examples])


def accuracy_by_bits(store: Path, sentiment: tuple[list[str], npt.NDArray[np.int64]]) -> Callable[[int], float]:
    """Percent right on the dev set, at one bitwidth."""
    texts, labels = sentiment

    def accuracy(bits: int) -> float:
        with Engine(store) as engine:
            outputs = engine.answer(texts, engine.uniform_plan(bits)).outputs
        return float(100 * (np.array([output.argmax() for output in outputs]) == labels).mean())

    return accuracy


def test_classification_keeps_its_accuracy(
    shared_models: Path, tmp_path: Path, sentiment: tuple[list[str], npt.NDArray[np.int64]]
) -> None:
    store = package_quietly(shared_models / "minilm-sst2", tmp_path / "store", sequences=(64,))
    accuracy = accuracy_by_bits(store, sentiment)
    exact = accuracy(32)
    assert exact == pytest.approx(89.56, abs=0.12)  # 781 of 872, give or take one
    assert accuracy(8) >= exact - 0.5
    for bits in (3, 4, 5, 6):
        assert accuracy(bits) >= exact - 1.0, bits
    assert accuracy(2) >= exact - 4.5


def test_calibration_on_unlabelled_training_texts_repairs_two_bits(
    shared: Path, tmp_path: Path, sentiment: tuple[list[str], npt.NDArray[np.int64]]
) -> None:
    sentences = [row[0] for row in rows(shared / "data" / "sst2" / "train.tsv")[1:]]
    chosen = np.random.default_rng(0).permutation(len(sentences))[:CALIBRATION_TEXTS]
    (tmp_path / "texts.txt").write_text("\n".join(sentences[index] for index in chosen), "utf-8")
    store = package_quietly(
        shared / "models" / "minilm-sst2", tmp_path / "store", sequences=(64,), bitwidths=(2, 32),
        calibrate=tmp_path / "texts.txt",
    )  # fmt: skip
    accuracy = accuracy_by_bits(store, sentiment)
    assert accuracy(2) >= accuracy(32) - 2.0
