"""The packager: options, what a store then holds, and that a failure leaves the old store."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from host.checkpoint import load_checkpoint
from host.encode import LayerEncoder
from host.package import PackageOptions, package
from shard_store.errors import CheckpointError, ExecutorError, FormatError
from shard_store.geometry import BITWIDTHS
from shard_store.manifest import TemplateKey
from shard_store.reader import Store
from shard_store.template import TemplateKind
from tests.model_copies import copy_model, edit_json
from tests.packaging import package_quietly

StoreOf = Callable[[str], Path]

SMALL = PackageOptions(bitwidths=(8,), slices=1, sequences=(16,))


def quietly(_stage: str, _done: int, _total: int) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("bitwidths", "sequences", "message"),
    [
        ((), (16,), "bits none: name some of 2, 3, 4, 5, 6, 8, 32"),
        ((2, 7), (16,), "bits 7: name some of"),
        ((0,), (16,), "bits 0: name some of"),
        ((2,), (), "no sequence lengths: name at least one, such as 64"),
        ((2,), (16, 0), "sequence length 0 must be 1 to 4096"),
        ((2,), (4097,), "sequence length 4097 must be 1 to 4096"),
    ],
)
def test_options_are_checked_before_any_work(
    bitwidths: tuple[int, ...], sequences: tuple[int, ...], message: str
) -> None:
    with pytest.raises(FormatError, match=f"^{message}"):
        PackageOptions(bitwidths=bitwidths, sequences=sequences)


@pytest.mark.parametrize("name", ["bert-token", "distilbert-sequence", "roberta-embedding"])
def test_a_store_holds_the_whole_model(name: str, golden_store: StoreOf, golden_models: Path) -> None:
    checkpoint = load_checkpoint(golden_models / name)
    with Store.open(golden_store(name)) as store:
        store.verify()
        manifest = store.manifest
        assert manifest.geometry == checkpoint.geometry()
        assert manifest.bitwidths == BITWIDTHS
        assert manifest.description.position_offset == checkpoint.position_offset
        assert manifest.description.max_tokens == checkpoint.max_tokens
        assert manifest.description.head.labels == checkpoint.head.labels
        assert set(manifest.templates) == {
            TemplateKey(kind, slices + 1, sequence)
            for kind in TemplateKind for slices in range(manifest.geometry.slices)
            for sequence in manifest.description.sequences
        }  # fmt: skip
        assert store.tokenizer_bytes() == checkpoint.tokenizer_json
        tables, tensors = checkpoint.tables(), store.resident()
        np.testing.assert_array_equal(store.rows("word", range(len(tables.word))), tables.word.astype(np.float32))
        assert ("token_type" in manifest.row_tables) == (tables.token_type is not None)
        for number, dense in enumerate(checkpoint.head.dense):
            np.testing.assert_array_equal(tensors[f"head.{number}.weight"], dense.weight)
        for index in range(manifest.geometry.layers):
            weights = checkpoint.layer(index)
            np.testing.assert_array_equal(tensors[f"layer.{index}.output.bias"], weights.output.bias)
            np.testing.assert_array_equal(tensors[f"layer.{index}.ffn_norm.beta"], weights.ffn_norm.beta)


def test_the_report_says_what_was_written(golden_models: Path, tmp_path: Path) -> None:
    options = PackageOptions(bitwidths=(32, 4, 4), slices=2, sequences=(16, 8, 16))
    report = package(str(golden_models / "bert-sequence"), tmp_path / "store", options, quietly)
    assert (report.model, report.family, report.layers, report.slices) == ("bert-sequence", "bert", 2, 2)
    assert (report.bitwidths, report.sequences, report.calibrated_on) == ((4, 32), (8, 16), 0)
    assert report.store_bytes == sum(file.stat().st_size for file in (tmp_path / "store").iterdir())
    with Store.open(report.store) as store:
        store.verify()
        assert store.manifest.bitwidths == (4, 32)


@pytest.mark.parametrize(("bits", "kind"), [(2, TemplateKind.INT8), (32, TemplateKind.FLOAT32)])
def test_only_templates_that_the_bits_need_are_made(
    bits: int, kind: TemplateKind, golden_models: Path, tmp_path: Path
) -> None:
    path = package_quietly(
        golden_models / "bert-token", tmp_path / "store", sequences=(16,), bitwidths=(bits,), slices=1
    )
    with Store.open(path) as store:
        assert {key.kind for key in store.manifest.templates} == {kind}
        assert any(name.endswith(".scale") for name in store.manifest.resident) == (bits != 32)


def test_sequences_beyond_the_model_s_limit_are_cut_to_it(golden_models: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(golden_models / "bert-sequence")
    path = package_quietly(
        golden_models / "bert-sequence", tmp_path / "store", sequences=(64, 8, 4096), bitwidths=(8,), slices=1
    )
    with Store.open(path) as store:
        assert store.manifest.description.sequences == (8, checkpoint.max_tokens)


def test_a_store_may_carry_another_name(golden_models: Path, tmp_path: Path) -> None:
    options = PackageOptions((8,), 1, (16,), name="films/v2")
    assert package(str(golden_models / "bert-sequence"), tmp_path / "store", options, quietly).model == "films/v2"


def test_progress_counts_up_to_the_end_of_each_stage(golden_models: Path, tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    options = PackageOptions(bitwidths=(2, 32), slices=2, sequences=(8, 16))
    package(
        str(golden_models / "bert-sequence"), tmp_path / "store", options,
        lambda stage, done, total: steps.append((stage, done, total)),
    )  # fmt: skip
    assert steps == [(stage, done, 4) for stage in ("templates", "shards") for done in range(5)]


def test_calibrated_packaging_changes_lattice_shards_only(golden_models: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("good film\nbad film\na dull film\nthe cat sat on the warm mat .\n" * 3)
    model = golden_models / "bert-sequence"
    options = PackageOptions(bitwidths=(3, 32), slices=4, sequences=(16,), calibrate=texts)
    report = package(str(model), tmp_path / "calibrated", options, quietly)
    assert report.calibrated_on == 12
    plain = package_quietly(model, tmp_path / "plain", sequences=(16,), bitwidths=(3, 32), slices=4)
    with Store.open(report.store) as one, Store.open(plain) as other:
        one.verify()
        differing = {name for name, file in one.manifest.files.items() if file != other.manifest.files[name]}
    assert differing == {"shards-3.bin"}


def test_packaging_twice_gives_the_same_store(golden_models: Path, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        path = package_quietly(
            golden_models / "bert-sequence", tmp_path / name, sequences=(16,), bitwidths=(4,), slices=2
        )
        contents.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("slices", "message"), [(3, "heads 4 is not a multiple of slices 3"), (0, "slices is 0, must be 1 to")]
)
def test_slices_that_do_not_divide(slices: int, message: str, golden_models: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        package_quietly(golden_models / "bert-sequence", tmp_path / "store", sequences=(16,), slices=slices)
    assert not (tmp_path / "store").exists()


def test_an_unknown_family_is_one_line(tmp_path: Path) -> None:
    model = copy_model("bert-sequence", tmp_path)
    edit_json(model / "config.json", model_type="mamba")
    with pytest.raises(CheckpointError, match="model_type 'mamba' is not supported; known: bert, distil") as caught:
        package(str(model), tmp_path / "store", SMALL, quietly)
    assert "\n" not in str(caught.value)


def test_calibration_texts_are_checked_before_any_work(golden_models: Path, tmp_path: Path) -> None:
    options = PackageOptions((8,), 1, (16,), calibrate=tmp_path / "missing")
    with pytest.raises(CheckpointError, match=r"calibration texts .*missing: cannot be read"):
        package(str(golden_models / "bert-sequence"), tmp_path / "store", options, quietly)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize(("stage", "error"), [("templates", ExecutorError("rewrote")), ("shards", KeyboardInterrupt())])
def test_a_failure_midway_leaves_the_old_store(
    stage: str, error: BaseException, golden_models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "stores" / "store"
    package(str(golden_models / "bert-sequence"), path, SMALL, quietly)
    before = contents(path)

    def fail(now: str, done: int, _total: int) -> None:
        if now == stage and done == 1:
            raise error

    with pytest.raises(type(error)):
        package(str(golden_models / "bert-token"), path, PackageOptions((2, 8), 4, (16,)), fail)
    assert contents(path) == before
    assert list(path.parent.iterdir()) == [path], "nothing else is left"


def test_a_layer_that_cannot_be_encoded_leaves_no_store(
    golden_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_encoder: LayerEncoder) -> None:
        raise FormatError("layer 0: refused")

    monkeypatch.setattr(LayerEncoder, "shared_scales", refuse)
    with pytest.raises(FormatError, match="refused"):
        package(str(golden_models / "bert-sequence"), tmp_path / "store", SMALL, quietly)
    assert list(tmp_path.iterdir()) == []
