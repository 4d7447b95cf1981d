"""`sti profile`: what lands in the store, resumed, in several processes, on a Dask cluster, or refused."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from host.profile import workers
from host.profile.jobs import Job, Outcome, Task
from host.profile.profiler import ProfileOptions, profile_store
from shard_store.errors import DeviceError
from shard_store.profile import Profile, ProfileMethod
from shard_store.reader import Store
from tests.cli_runs import Sti
from tests.texts import write_texts


@pytest.fixture
def store(golden_store: Callable[[str], Path], tmp_path: Path) -> Path:
    shutil.copytree(golden_store("bert-sequence"), tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts.tsv", 24)


def quietly(_stage: str, _done: int, _total: int) -> None:
    pass


def profile_inline(store: Path, data: Path, method: ProfileMethod = ProfileMethod.EXACT) -> Profile:
    return profile_store(store, data, ProfileOptions(method=method), quietly, workers.inline)


def stored(store: Path) -> Profile | None:
    with Store.open(store) as opened:
        opened.verify()
        return opened.manifest.profile


def assert_same(one: Profile, other: Profile) -> None:
    """The same numbers but for the order in which threads add."""
    assert set(one.shard_loss) == set(other.shard_loss)
    for bitwidth, grid in one.shard_loss.items():
        np.testing.assert_allclose(grid, other.shard_loss[bitwidth], rtol=2e-3, atol=1e-7)
    np.testing.assert_allclose(one.submodel_loss, other.submodel_loss, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(one.metrics, other.metrics)


@pytest.mark.parametrize("method", ProfileMethod)
def test_a_profile_lands_in_the_store(store: Path, data: Path, method: ProfileMethod) -> None:
    profile = profile_inline(store, data, method)
    assert stored(store) == profile
    assert (profile.metric, profile.samples, profile.method) == ("accuracy", 24, method)
    grids = np.array([profile.shard_loss[bitwidth] for bitwidth in sorted(profile.shard_loss)])
    assert (np.diff(grids, axis=0) <= 0).all()
    assert not grids[-1].any()
    assert grids[0].any()
    assert not list(store.parent.glob(".*"))


def test_processes_find_what_one_thread_finds(store: Path, data: Path) -> None:
    expected = profile_inline(store, data)
    found = profile_store(store, data, ProfileOptions(processes=2), quietly)
    assert_same(found, expected)


def test_a_stopped_profile_is_resumed(store: Path, data: Path) -> None:
    expected = profile_inline(store, data)
    asked: list[Job] = []

    def stops(task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for number, pair in enumerate(workers.inline(task, jobs)):
            if number == 2:
                raise KeyboardInterrupt
            yield pair

    def counts(task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        asked.extend(jobs)
        return workers.inline(task, jobs)

    with pytest.raises(KeyboardInterrupt):
        profile_store(store, data, ProfileOptions(), quietly, stops)
    assert len(list(store.parent.glob(".store.profile-*.npz"))) == 1
    assert stored(store) == expected  # what was there before
    found = profile_store(store, data, ProfileOptions(resume=True), quietly, counts)
    assert_same(found, expected)
    with Store.open(store) as opened:
        geometry = opened.manifest.geometry
        bitwidths = opened.manifest.bitwidths
    every = geometry.slices + len(bitwidths) - 1 + geometry.layers * geometry.slices
    assert len(asked) == every - 2
    assert not list(store.parent.glob(".*"))


def test_a_damaged_partial_result_counts_as_none(store: Path, data: Path) -> None:
    def stops(task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        yield next(workers.inline(task, jobs))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_store(store, data, ProfileOptions(), quietly, stops)
    (kept,) = store.parent.glob(".store.profile-*.npz")
    kept.write_bytes(kept.read_bytes()[:100])
    profile = profile_store(store, data, ProfileOptions(resume=True), quietly, workers.inline)
    assert stored(store) == profile


def test_dask_finds_what_one_thread_finds(store: Path, data: Path) -> None:
    distributed = pytest.importorskip("distributed")
    expected = profile_inline(store, data)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, host="127.0.0.1",
        protocol="tcp", scheduler_port=0,
    ) as cluster:  # fmt: skip
        found = profile_store(store, data, ProfileOptions(dask_address=cluster.scheduler_address), quietly)
    assert_same(found, expected)


def test_a_cluster_that_is_not_there_is_one_line(
    store: Path, data: Path, sti: Sti, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_CONNECT_SECONDS", 0.5)
    finished = sti("profile", store, "--data", data, "--dask", "tcp://127.0.0.1:9")
    assert finished.code == 1
    assert "error: Dask cluster tcp://127.0.0.1:9: cannot be reached" in finished.err
    assert stored(store) is None


def test_dask_that_is_not_installed_is_one_line(store: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(DeviceError, match="Dask is not installed; pip install"):
        profile_store(store, data, ProfileOptions(dask_address="tcp://127.0.0.1:9"), quietly)


def test_the_command_reports_and_draws(store: Path, data: Path, sti: Sti, tmp_path: Path) -> None:
    arguments = ("profile", store, "--data", data, "--method", "estimate", "--jobs", 1)
    finished = sti(*arguments, "--json", "--heat-map", tmp_path / "map.png")
    assert finished.code == 0, finished.err
    assert finished.json["metric"] == "accuracy"
    assert finished.json["samples"] == 24
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"), [("no label here\n", "expected 2 or 3 columns"), ("a\t0\n", "give at least 8")]
)
def test_bad_data_is_one_line(store: Path, sti: Sti, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.tsv").write_text(text)
    finished = sti("profile", store, "--data", tmp_path / "bad.tsv")
    assert finished.code == 1
    assert message in finished.err
    assert len(finished.err.strip().splitlines()) == 1
    assert stored(store) is None


def test_embeddings_need_no_labels(golden_store: Callable[[str], Path], tmp_path: Path) -> None:
    store = tmp_path / "embedding"
    shutil.copytree(golden_store("bert-embedding"), store)
    lines = write_texts(tmp_path / "texts.tsv", 12).read_text().splitlines()
    (tmp_path / "plain.txt").write_text("\n".join(line.split("\t")[0] for line in lines))
    profile = profile_inline(store, tmp_path / "plain.txt", ProfileMethod.ESTIMATE)
    assert (profile.metric, profile.samples) == ("cosine", 12)
    assert profile.metrics[-1][-1] == pytest.approx(1)


def test_a_heat_map_must_be_a_png(store: Path, data: Path, sti: Sti, tmp_path: Path) -> None:
    finished = sti("profile", store, "--data", data, "--heat-map", tmp_path / "map.svg")
    assert (finished.code, stored(store)) == (1, None)
    assert "a heat map is a .png file" in finished.err
