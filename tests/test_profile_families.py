"""Profiles of vision transformers and decoders: the float model is the device's, and what lands in the store."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from device_agent.causal_activations import Segment
from device_agent.engine import Engine
from host.profile import workers
from host.profile.batch import TokenBatch
from host.profile.estimate import estimated_changes
from host.profile.heat_map import draw_heat_map
from host.profile.jobs import Job, Kind, Task, manifest_sha256
from host.profile.losses import own_losses
from host.profile.measure import Bench
from host.profile.profiler import ProfileOptions, profile_store, read_sample
from shard_store.errors import DataError
from shard_store.profile import Profile, ProfileMethod
from shard_store.reader import Store
from tests.cli_runs import Sti
from tests.decoders import CONFIGS, VOCABULARY, reference_logits, write_decoder
from tests.packaging import package_quietly
from tests.vision import write_images, write_vision_transformer

Folder = Callable[[str], Path]
BITWIDTHS = (2, 6, 32)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder with a random model, its store and its data, each made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = made[name] = tmp_path_factory.mktemp(name)
            if name == "vit":
                write_vision_transformer(folder / "model")
                write_images(folder, 40).rename(folder / "data")
            else:
                write_decoder(folder / "model", CONFIGS[name])
                (folder / "data").write_text(prompts())
            package_quietly(
                folder / "model", folder / "store", sequences=(4, 16), bitwidths=BITWIDTHS,
                slices=1 if name == "qwen2" else 2,
            )  # fmt: skip
        return made[name]

    return make


def prompts(seed: int = 0) -> str:
    """Texts of 1 to 40 tokens, the longest sequence bucket being 16."""
    random = np.random.default_rng(seed)
    lengths = [1, 2, 40, *random.integers(3, 16, 12)]
    return "\n".join(" ".join(f"w{token}" for token in random.integers(2, VOCABULARY, length)) for length in lengths)


def bench_of(folder: Path) -> Bench:
    with Store.open(folder / "store") as store:
        task = Task(folder / "store", manifest_sha256(store), read_sample(store, folder / "data", None))
    return Bench.open(task)


def profile_copy(
    folder: Path, out: Path, method: ProfileMethod = ProfileMethod.EXACT, processes: int | None = None
) -> Profile:
    shutil.copytree(folder / "store", out)
    where = None if processes else workers.inline
    options = ProfileOptions(method=method, processes=processes)
    return profile_store(out, folder / "data", options, lambda *_: None, where)


def test_images_run_as_on_the_device(model_of: Folder) -> None:
    folder = model_of("vit")
    files = [folder / line.split("\t")[0] for line in (folder / "data").read_text().splitlines()]
    bench = bench_of(folder)
    with Engine(folder / "store") as engine:
        found = np.stack(engine.classify_images([f.read_bytes() for f in files], engine.uniform_plan(32)).outputs)
        narrow_plan = engine.uniform_plan(32, layers=2, slices=1)
        narrow = np.stack(engine.classify_images([f.read_bytes() for f in files], narrow_plan).outputs)
    np.testing.assert_allclose(np.concatenate(bench.quality.reference), found, atol=1e-4)
    second = list(bench.runner.submodels(1, 32))[1]
    np.testing.assert_allclose(np.concatenate(second), narrow, atol=1e-4)
    bench.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_decoders_run_as_the_reference_does(name: str, model_of: Folder) -> None:
    folder = model_of(name)
    bench = bench_of(folder)
    for batch, outputs in zip(bench.runner.sample.batches, bench.quality.reference, strict=True):
        assert isinstance(batch, TokenBatch)
        assert batch.judged is not None
        assert outputs.shape == (*batch.judged.shape, VOCABULARY)
        for ids, real, places, logits in zip(batch.ids, batch.real, batch.judged, outputs, strict=True):
            expected = reference_logits(folder / "model", ids[real].tolist())
            kept = places[places >= 0]
            assert len(kept) == min(4, real.sum())
            np.testing.assert_allclose(logits[: len(kept)], expected[kept], atol=1e-3)
    bench.close()


def test_a_narrow_decoder_runs_as_on_the_device(model_of: Folder) -> None:
    folder = model_of("llama")
    bench = bench_of(folder)
    batch = bench.runner.sample.batches[0]
    assert isinstance(batch, TokenBatch)
    row = int(batch.real.sum(1).argmax())
    ids = batch.ids[row][batch.real[row]]
    with Engine(folder / "store") as engine:
        plan, model = engine.uniform_plan(32, layers=2, slices=1), engine.texts.generator.model
        cache = model.open_cache(plan, len(ids))
        hidden = [model.advance(plan, [Segment(ids[n : n + 1], cache)], lambda: False)[0][0] for n in range(len(ids))]
        model.close_cache(cache)
    found = list(bench.runner.submodels(1, 32))[1][0][row]
    assert batch.judged is not None
    np.testing.assert_allclose(found, np.stack(hidden)[batch.judged[row]], atol=1e-4)
    bench.close()


@pytest.mark.parametrize("method", ProfileMethod)
@pytest.mark.parametrize(("name", "metric"), [("vit", "accuracy"), ("gpt2", "agreement"), ("llama", "agreement")])
def test_a_profile_lands_in_the_store(
    name: str, metric: str, method: ProfileMethod, model_of: Folder, tmp_path: Path
) -> None:
    profile = profile_copy(model_of(name), tmp_path / "store", method)
    with Store.open(tmp_path / "store") as opened:
        assert opened.manifest.profile == profile
    assert (profile.metric, profile.method) == (metric, method)
    grids = np.array([profile.shard_loss[bitwidth] for bitwidth in BITWIDTHS])
    assert (np.diff(grids, axis=0) <= 0).all()
    assert grids[0].min() > grids[1].max() > 0
    assert profile.submodel_loss[-1][-1] == pytest.approx(0, abs=1e-6)
    assert profile.submodel_loss[0][0] > 0.01
    if metric == "agreement":
        assert profile.metrics[-1][-1] == 1
    draw_heat_map(profile, tmp_path / "map.png")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["vit", "gpt2"])
def test_processes_find_what_one_thread_finds(name: str, model_of: Folder, tmp_path: Path) -> None:
    expected = profile_copy(model_of(name), tmp_path / "one")
    found = profile_copy(model_of(name), tmp_path / "two", processes=2)
    np.testing.assert_allclose(found.submodel_loss, expected.submodel_loss, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.shard_loss[2], expected.shard_loss[2], rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("name", ["vit", "qwen2", "gpt2"])
def test_the_estimate_is_exact_to_first_order(name: str, model_of: Folder) -> None:
    bench = bench_of(model_of(name))
    estimated = own_losses(estimated_changes(bench)[6])
    exact = np.array([bench.run(Job(Kind.LOWERED, shard)).losses[1] for shard in range(len(estimated))])
    tolerance = 0.1 if name == "vit" else 0.6  # of many outputs, four random combinations
    np.testing.assert_allclose(estimated, exact, rtol=tolerance)
    bench.close()


def test_long_lines_are_cut_into_windows(model_of: Folder) -> None:
    folder = model_of("gpt2")
    with Store.open(folder / "store") as store:
        sample = read_sample(store, folder / "data", None)
        assert sample.inputs == 15 + 2  # 40 tokens are windows of 16, 16 and 8
        assert max(batch.real.sum(1).max() for batch in sample.batches) == 16
        fewer = read_sample(store, folder / "data", 9)
        assert fewer.inputs == 9
        assert fewer.sha256 != sample.sha256


def test_unfit_texts_are_refused(model_of: Folder, tmp_path: Path) -> None:
    with Store.open(model_of("gpt2") / "store") as store:
        (tmp_path / "few.txt").write_text("w2 w3\nw4\n")
        with pytest.raises(DataError, match="2 texts, give at least 8"):
            read_sample(store, tmp_path / "few.txt", None)
        (tmp_path / "tabs.txt").write_text("w2\t1\n" * 9)
        with pytest.raises(DataError, match="cannot be read as UTF-8 text without tabs; give one text a line"):
            read_sample(store, tmp_path / "tabs.txt", None)


def test_the_command_profiles_a_decoder(model_of: Folder, tmp_path: Path, sti: Sti) -> None:
    folder = model_of("gpt2")
    shutil.copytree(folder / "store", tmp_path / "store")
    arguments = ("profile", tmp_path / "store", "--data", folder / "data", "--jobs", 1, "--method", "estimate")
    finished = sti(*arguments, "--json")
    assert finished.code == 0, finished.err
    assert (finished.json["metric"], finished.json["samples"]) == ("agreement", 17)
