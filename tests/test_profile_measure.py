"""Measuring shards: equal to running the whole model afresh, whatever runs the jobs."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from host.profile.estimate import estimated_changes
from host.profile.jobs import Job, Kind, Task, manifest_sha256, run_job, shard_key
from host.profile.losses import additive_losses, never_rising, own_losses
from host.profile.measure import Bench
from host.profile.profiler import read_sample
from host.profile.quality import Outputs, Quality
from host.profile.runner import Runner
from host.profile.stored_model import StoredModel
from shard_store.errors import DataError, FormatError
from shard_store.geometry import ShardKey
from shard_store.reader import Store
from tests.texts import WORDS, write_texts

MODELS = ("bert-sequence", "bert-token", "bert-embedding")


@pytest.fixture
def task_of(golden_store: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Task]:
    def make(name: str) -> Task:
        store_path = golden_store(name)
        with Store.open(store_path) as store:
            sample = read_sample(store, write_texts(tmp_path / "texts.tsv", 40), 40)
            return Task(store_path, manifest_sha256(store), sample)

    return make


@pytest.fixture
def bench(task_of: Callable[[str], Task]) -> Iterator[Bench]:
    yield Bench.open(task_of("bert-sequence"))


def brute_force(task: Task, base: int, changed: ShardKey) -> tuple[Outputs, Outputs]:
    """Outputs at the base bitwidth, and with one shard changed, by a runner that shares nothing."""
    with Store.open(task.store) as store:
        runner = Runner(StoredModel(store), task.sample)
        found = []
        for key in (None, changed):
            states = runner.first
            for layer in range(runner.geometry.layers):
                parts = [
                    runner.model.slice_weights(
                        key if key and (key.layer, key.slice) == (layer, index) else ShardKey(layer, index, base)
                    )
                    for index in range(runner.geometry.slices)
                ]
                states = runner.step(states, runner.model.join(layer, parts))
            found.append(runner.outputs(states))
        return found[0], found[1]


@pytest.mark.parametrize("name", MODELS)
def test_a_lowered_shard_equals_the_whole_model_run_afresh(name: str, task_of: Callable[[str], Task]) -> None:
    task = task_of(name)
    bench = Bench.open(task)
    shard = bench.runner.geometry.slices  # the first of the second layer
    outcome = run_job(task, Job(Kind.LOWERED, shard))
    for row, bitwidth in enumerate(bench.lower[:3]):
        reference, outputs = brute_force(task, bench.best, shard_key(bench.runner.geometry, shard, bitwidth))
        quality = Quality(bench.quality.head, reference, bench.quality.real, bench.quality.labels)
        assert outcome.losses[row] == pytest.approx(quality.loss(outputs), rel=1e-3, abs=1e-8)
        assert outcome.metrics[row] == pytest.approx(quality.metric(outputs), abs=1e-6)


def test_the_widest_and_deepest_submodel_is_the_reference(bench: Bench) -> None:
    outcome = bench.run(Job(Kind.SUBMODELS, bench.runner.geometry.slices))
    assert outcome.losses[-1] == pytest.approx(0, abs=1e-9)
    assert (outcome.losses[:-1] > 0).all()
    narrow = bench.run(Job(Kind.SUBMODELS, 1))
    assert narrow.losses[-1] > 0


@pytest.mark.parametrize("name", MODELS)
def test_changes_have_the_loss_as_half_their_squared_length(name: str, task_of: Callable[[str], Task]) -> None:
    task = task_of(name)
    outcome = run_job(task, Job(Kind.LOWERED, 0))
    bench = Bench.open(task)
    keys = [shard_key(bench.runner.geometry, 0, bitwidth) for bitwidth in bench.lower]
    halves = own_losses(np.stack([bench.quality.changes(bench.runner.changed(bench.best, key)) for key in keys]))
    many_outputs = name in ("bert-token", "bert-embedding")  # projected at random
    small = slice(2, None)  # 4 bits and more: the difference is of second order
    np.testing.assert_allclose(halves[small], outcome.losses[small], rtol=0.5 if many_outputs else 0.15, atol=1e-8)


@pytest.mark.parametrize("name", ["bert-sequence", "bert-token"])
def test_the_estimate_is_exact_to_first_order(name: str, task_of: Callable[[str], Task]) -> None:
    """At 6 and 8 bits changes are so small that a model is linear in them."""
    task = task_of(name)
    bench = Bench.open(task)
    estimated = estimated_changes(bench)
    assert set(estimated) == set(bench.lower)
    shards = bench.runner.geometry.layers * bench.runner.geometry.slices
    measured = [run_job(task, Job(Kind.LOWERED, shard)).losses for shard in range(shards)]
    losses = np.array([own_losses(one) for one in estimated.values()]).T
    exact = np.array(measured)
    assert losses.shape == exact.shape
    ranks = [np.argsort(np.argsort(column)) for column in (losses[:, 0], exact[:, 0])]
    assert np.corrcoef(ranks[0], ranks[1])[0, 1] > 0.7
    if name != "bert-token":
        np.testing.assert_allclose(losses[:, -1], exact[:, -1], rtol=0.1, atol=1e-8)


def test_losses_add_up_and_never_rise_with_the_bitwidth() -> None:
    raw = {2: np.array([4.0, -1.0, 2.0]), 3: np.array([1.0, 0.5, 0.0]), 8: np.zeros(3)}
    uniform = {2: 0.9, 3: 0.3, 8: 0.03}
    losses = additive_losses(raw, uniform)
    stacked = np.stack([losses[bitwidth] for bitwidth in (2, 3, 8)])
    assert (stacked >= 0).all()
    assert (np.diff(stacked, axis=0) <= 0).all()
    assert stacked.sum() == pytest.approx(sum(uniform.values()))
    assert losses[2][0] == pytest.approx(0.6)


def test_pooling_adjacent_violators() -> None:
    values = np.array([[3.0], [1.0], [2.0], [0.0]])
    np.testing.assert_allclose(never_rising(values)[:, 0], [3, 1.5, 1.5, 0])


def test_a_worker_that_sees_another_store_says_so(task_of: Callable[[str], Task]) -> None:
    task = task_of("bert-sequence")
    with pytest.raises(FormatError, match="not the store that is being profiled"):
        Bench.open(Task(task.store, "0" * 64, task.sample))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["the cat\t0"] * 3, "3 texts, give at least 8"),
        (["the cat\t7"] * 9, "label 7, the model has"),
    ],
)
def test_unfit_texts_are_refused(
    lines: list[str], message: str, golden_store: Callable[[str], Path], tmp_path: Path
) -> None:
    data = tmp_path / "texts.tsv"
    data.write_text("\n".join(lines))
    with Store.open(golden_store("bert-sequence")) as store, pytest.raises(DataError, match=message):
        read_sample(store, data, 100)


def test_texts_are_sorted_by_length_with_their_labels(golden_store: Callable[[str], Path], tmp_path: Path) -> None:
    data = tmp_path / "texts.tsv"
    data.write_text("\n".join(f"{' '.join(WORDS[:1] * (9 - number))}\t{number % 2}" for number in range(8)))
    with Store.open(golden_store("bert-sequence")) as store:
        sample = read_sample(store, data, 100)
    assert sample.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    lengths = sample.batches[0].real.sum(1)
    assert (np.diff(lengths) == 1).all()
