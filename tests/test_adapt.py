"""Elastic fine-tuning as a whole: what comes out, what is refused, and what an interrupted run leaves."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from host.adapt.adapt import DataFiles, adapt
from host.adapt.options import AdaptOptions, LayerChoice, Precision
from host.adapt.training_folder import TrainingFolder, settings_of
from host.checkpoint import load_checkpoint
from host.labelled_texts import LabelledTexts
from host.quiet_tensorflow import tf
from shard_store.errors import CheckpointError, DataError, StiError, TrainingError
from shard_store.head import HeadKind, Pooling
from shard_store.reader import Store
from tests.adapting import EXAMPLES, OPTIONS, adapt_quietly, write_examples
from tests.cli_runs import Sti
from tests.conftest import CHECKOUT
from tests.model_copies import copy_model
from tests.packaging import package_quietly

TRACED = ("test_a_model_without_a_head_gets_one_and_learns",)


@pytest.fixture(autouse=True)
def eager(request: pytest.FixtureRequest) -> Iterator[None]:
    """A few steps of a tiny model take less time than tracing their graphs."""
    tf.config.run_functions_eagerly(request.node.originalname not in TRACED)
    yield
    tf.config.run_functions_eagerly(False)


class Stopped(Exception):
    pass


def adapt_and_stop(model: Path, out: Path, at: int, stage: str = "adapt") -> None:
    """Interrupt a run after so many steps."""

    def stop(name: str, done: int, _total: int) -> None:
        if name.startswith(stage) and done == at:
            raise Stopped

    data = write_examples(out.parent)
    with pytest.raises(Stopped):
        adapt(str(model), DataFiles(data, data), out, OPTIONS, stop)


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(path / "model.safetensors") for path in (one, other))
    assert set(first) == set(second)
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", ["bert-sequence", "distilbert-sequence", "roberta-sequence"])
def test_the_output_is_a_model_directory_that_packages(name: str, golden_models: Path, tmp_path: Path) -> None:
    report = adapt_quietly(golden_models / name, tmp_path / "out", replace(OPTIONS, pooling=Pooling.MEAN))
    before, after = load_checkpoint(golden_models / name), load_checkpoint(report.out)
    assert after.head.labels == before.head.labels
    assert after.head.pooling is Pooling.MEAN
    assert np.array_equal(after.tables().word, before.tables().word)
    assert not np.array_equal(after.layer(0).query.weight, before.layer(0).query.weight)
    assert {(one.layers, one.slices) for one in report.submodels} == {(n, m) for n in (1, 2) for m in (1, 2)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.tsv", "out"]
    assert len({path.stat().st_mode for path in report.out.iterdir()}) == 1
    with Store.open(package_quietly(report.out, tmp_path / "store", sequences=(16,), slices=2)) as store:
        assert store.manifest.description.head.pooling is Pooling.MEAN


def test_a_model_without_a_head_gets_one_and_learns(golden_models: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, steps=60, learning_rate=3e-3)
    report = adapt_quietly(golden_models / "bert-embedding", tmp_path / "out", options)
    head = load_checkpoint(report.out).head
    assert head.kind is HeadKind.SEQUENCE_CLASSIFICATION
    assert (head.labels, head.pooling) == (("LABEL_0", "LABEL_1"), Pooling.MEAN)
    assert report.teacher_accuracy > 0.9
    accuracy = {(one.layers, one.slices): one.accuracy for one in report.submodels}
    assert accuracy[2, 2] > 0.9
    assert min(accuracy.values()) > 0.7
    assert json.loads((report.out / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]


def test_stated_layers_are_written_to_the_config(golden_models: Path, tmp_path: Path) -> None:
    report = adapt_quietly(golden_models / "bert-sequence", tmp_path / "out", replace(OPTIONS, layer_choices=((1,),)))
    assert json.loads((report.out / "config.json").read_text())["elastic_layers"] == [[1], [0, 1]]


@pytest.mark.parametrize("name", ["bert-sequence", "bert-embedding"])
def test_a_continued_training_equals_an_uninterrupted_one(name: str, golden_models: Path, tmp_path: Path) -> None:
    model = golden_models / name
    adapt_quietly(model, tmp_path / "whole")
    adapt_and_stop(model, tmp_path / "parts", at=3)  # after the state of step 2
    if name == "bert-embedding":
        assert (tmp_path / "parts.training" / "teacher" / "config.json").is_file()
    assert not (tmp_path / "parts").exists()
    adapt_quietly(model, tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts.training").exists()


def test_a_continued_training_does_only_what_is_left(golden_models: Path, tmp_path: Path) -> None:
    model, out, steps = golden_models / "bert-sequence", tmp_path / "out", []
    adapt_and_stop(model, out, at=5)
    data = write_examples(tmp_path)

    def note(stage: str, done: int, _total: int) -> None:
        if stage.startswith("adapt"):
            steps.append(done)

    adapt(str(model), DataFiles(data, data), out, OPTIONS, note)
    assert steps == [4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 4}, "--batch 8, not 4"),
        ({"steps": 7}, "--steps 6, not 7"),
        ({"pooling": Pooling.MEAN}, "--pooling unset, not mean"),
        ({"precision": Precision.BFLOAT16}, "--precision float32, not bfloat16"),
        ({"layer_choices": ((1,),)}, "--layer-choice unset, not 1"),
    ],
)
def test_another_configuration_does_not_continue(
    changes: dict[str, object], message: str, golden_models: Path, tmp_path: Path
) -> None:
    adapt_and_stop(golden_models / "bert-sequence", tmp_path / "out", at=1)
    with pytest.raises(TrainingError, match=message):
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "out", replace(OPTIONS, **changes))  # type: ignore[arg-type]


def test_other_data_or_another_checkpoint_do_not_continue(golden_models: Path, tmp_path: Path) -> None:
    adapt_and_stop(golden_models / "bert-sequence", tmp_path / "out", at=1)
    with pytest.raises(TrainingError, match="was started with checkpoint"):
        adapt_quietly(golden_models / "distilbert-sequence", tmp_path / "out")
    data = write_examples(tmp_path, LabelledTexts(EXAMPLES.texts[::-1], EXAMPLES.labels))
    with pytest.raises(TrainingError, match="was started with training data"):
        adapt(str(golden_models / "bert-sequence"), DataFiles(data, data), tmp_path / "out", OPTIONS, lambda *_: None)


def test_two_runs_do_not_share_a_folder(golden_models: Path, tmp_path: Path) -> None:
    checkpoint, data = load_checkpoint(golden_models / "bert-sequence"), write_examples(tmp_path)
    folder = TrainingFolder(tmp_path / "out", settings_of(checkpoint, data, OPTIONS))
    with folder, pytest.raises(TrainingError, match="another run is at work"):
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")
    adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")


def test_a_damaged_state_is_named(golden_models: Path, tmp_path: Path) -> None:
    adapt_and_stop(golden_models / "bert-sequence", tmp_path / "out", at=3)
    state = tmp_path / "out.training" / "adapt.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"adapt.safetensors: not a saved training .* remove .*out.training"):
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")


def test_a_failed_write_leaves_no_output_and_is_repeated(
    golden_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("host.adapt.output.save_file", fail)
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.tsv", "out"]


def test_a_killed_run_leaves_its_state_and_no_output(golden_models: Path, tmp_path: Path) -> None:
    data, out = write_examples(tmp_path), tmp_path / "out"
    command = [
        sys.executable, "-m", "host.cli", "adapt", golden_models / "bert-sequence", "--train", data, "--dev", data,
        "--out", out, "--steps", 1_000_000, "--batch", 8,
    ]  # fmt: skip
    state = tmp_path / "out.training" / "adapt.safetensors"
    with subprocess.Popen([str(part) for part in command], cwd=CHECKOUT, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not state.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"examples.tsv", "out.training"}
    load_file(state)


def test_an_existing_output_is_kept(golden_models: Path, tmp_path: Path) -> None:
    copy_model("bert-sequence", tmp_path)
    with pytest.raises(TrainingError, match="exists; choose another directory or remove it"):
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "bert-sequence")


@pytest.mark.parametrize(
    ("model", "rows", "error", "message"),
    [
        ("bert-sequence", "good\t3\n" * 8, DataError, "found label 3, the model has labels 0 to 2"),
        ("bert-sequence", "good\t1\n" * 7, DataError, "7 texts are less than one batch; give --batch 7"),
        ("bert-sequence", "good\n", DataError, "line 1: expected 2 or 3 columns"),
        ("bert-token", "good\t1\n" * 8, CheckpointError, "its head is a token_classification"),
    ],
)
def test_data_that_does_not_fit_is_refused(
    model: str, rows: str, error: type[StiError], message: str, golden_models: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.tsv"
    data.write_text(rows)
    with pytest.raises(error, match=message):
        adapt(str(golden_models / model), DataFiles(data, data), tmp_path / "out", OPTIONS, lambda *_: None)
    assert [path.name for path in tmp_path.iterdir()] == ["data.tsv"]


def test_a_training_that_diverges_is_stopped(
    golden_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("host.adapt.objective._TEACHER_SHARE", float("nan"))
    with pytest.raises(TrainingError, match="the loss is nan at step 0; give a lower --learning-rate"):
        adapt_quietly(golden_models / "bert-sequence", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps is 0, must be at least 1"),
        ({"max_tokens": 1}, "--max-tokens is 1"),
        ({"learning_rate": 0.0}, "--learning-rate is 0.0"),
    ],
)
def test_options_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        AdaptOptions(**changes)  # type: ignore[arg-type]


def test_layer_choices() -> None:
    assert AdaptOptions().choices(3) == ((0,), (0, 1), (0, 1, 2))
    assert AdaptOptions(layer_choices=((0, 2),)).choices(3) == ((0,), (0, 2), (0, 1, 2))


@pytest.mark.parametrize("choice", [(), (3,), (-1,), (1, 0), (1, 1)])
def test_layer_choices_that_do_not_exist(choice: LayerChoice) -> None:
    with pytest.raises(TrainingError, match="name layers from 0 to 2, each once, in order"):
        AdaptOptions(layer_choices=(choice,)).choices(3)


def test_bfloat16_is_chosen_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    monkeypatch.setattr("host.adapt.options._CPU_FACTS", facts)
    assert Precision.AUTO.resolved() is Precision.FLOAT32
    facts.write_text("flags\t\t: fpu avx512_bf16 avx2\n")
    assert Precision.AUTO.resolved() is Precision.BFLOAT16
    assert Precision.FLOAT32.resolved() is Precision.FLOAT32


def test_the_command_prints_a_table_or_json(sti: Sti, golden_models: Path, tmp_path: Path) -> None:
    data = write_examples(tmp_path)
    arguments = ["adapt", golden_models / "bert-sequence", "--train", data, "--dev", data, "--steps", 2, "--batch", 8]
    arguments += ["--slices", 2]
    shown = sti(*arguments, "--out", tmp_path / "one")
    assert shown.code == 0
    assert "dev accuracy in per cent (teacher: " in shown.out
    assert [line.split()[0] for line in shown.out.splitlines()[2:]] == ["layers", "1", "2"]
    printed = sti(*arguments, "--out", tmp_path / "two", "--json", "--pooling", "mean", "--layer-choice", "1")
    assert printed.json["pooling"] == "mean"
    assert len(printed.json["submodels"]) == 4
    refused = sti(*arguments, "--out", tmp_path / "one")
    assert (refused.code, refused.out) == (1, "")
    assert "exists" in refused.err.strip()
    assert "\n" not in refused.err.strip()
