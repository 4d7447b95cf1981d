import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from host.checkpoint import load_checkpoint
from host.weight_files import open_weights
from shard_store.errors import CheckpointError
from tests.model_copies import GOLDEN, Tensors, copy_model, edit_tensors

QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_model("bert-embedding", tmp_path)


def test_reads_float32_of_every_stored_type() -> None:
    for name in ("bert-embedding", "bert-sequence", "roberta-embedding"):  # float32, float16, bfloat16
        values = open_weights(GOLDEN / name, "bert.").read("embeddings.LayerNorm.weight")
        assert values.dtype == np.float32
        assert 0.5 < values.mean() < 1.5


def test_split_files_read_as_one(model: Path) -> None:
    whole = load_checkpoint(model).layer(1)
    path = model / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, model / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    split = load_checkpoint(model).layer(1)
    np.testing.assert_array_equal(split.query.weight, whole.query.weight)
    np.testing.assert_array_equal(split.ffn_norm.beta, whole.ffn_norm.beta)
    (model / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: not a complete safetensors file"):
        load_checkpoint(model)


def test_index_may_not_leave_the_directory(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(CheckpointError, match="must lie in the same directory"):
        load_checkpoint(model)


def test_old_layer_norm_names(model: Path) -> None:
    expected = load_checkpoint(model).layer(0).attention_norm

    def old(key: str) -> str:
        return key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    edit_tensors(model, lambda tensors: {old(key): value for key, value in tensors.items()})
    found = load_checkpoint(model).layer(0).attention_norm
    np.testing.assert_array_equal(found.gamma, expected.gamma)
    np.testing.assert_array_equal(found.beta, expected.beta)


def without_query(tensors: Tensors) -> Tensors:
    return {key: value for key, value in tensors.items() if key != QUERY}


def transposed_shape(tensors: Tensors) -> Tensors:
    return tensors | {QUERY: np.zeros((32, 33), np.float32)}


def with_adapter(tensors: Tensors) -> Tensors:
    return tensors | {"encoder.layer.0.adapter.weight": np.zeros((2, 2), np.float32)}


def with_third_layer(tensors: Tensors) -> Tensors:
    return tensors | {QUERY.replace("0", "2"): tensors[QUERY]}


def with_integers(tensors: Tensors) -> Tensors:
    return tensors | {QUERY: np.zeros((32, 32), np.int8)}


def with_double(tensors: Tensors) -> Tensors:
    return tensors | {f"bert.{QUERY}": tensors[QUERY]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_query, rf"tensor {QUERY}: expected \[32, 32\], found none"),
        (transposed_shape, rf"tensor {QUERY}: expected \[32, 32\], found \[32, 33\]"),
        (with_adapter, r"encoder\.layer\.0\.adapter\.weight: expected no such tensor, found shape \[2, 2\]"),
        (with_third_layer, r"encoder\.layer\.2\.attention\.self\.query\.weight: expected no such tensor"),
        (with_integers, rf"tensor {QUERY}: expected one of F32, F16, BF16, found I8"),
        (with_double, rf"{QUERY}: expected once, found again"),
    ],
)
def test_wrong_tensors_are_named(model: Path, edit: object, message: str) -> None:
    assert callable(edit)
    edit_tensors(model, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(model: Path, value: float) -> None:
    def spoil(tensors: Tensors) -> Tensors:
        tensors[QUERY][3, 4] = value
        return tensors

    edit_tensors(model, spoil)
    checkpoint = load_checkpoint(model)
    with pytest.raises(CheckpointError, match=rf"tensor {QUERY}: expected finite values, found 1 infinite or NaN"):
        checkpoint.layer(0)
    assert checkpoint.layer(1).query.weight.shape == (32, 32)


def test_pickled_weights_are_refused_with_the_remedy(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"found only pytorch_model\.bin; write it with .*safe_serialization=True"
    ):
        load_checkpoint(model)


def test_no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors, found none"):
        load_checkpoint(model)


@pytest.mark.parametrize("kept", [0, 4, 1000, -1])
def test_truncated_file(model: Path, kept: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        load_checkpoint(model)


def test_file_that_vanishes_after_opening(model: Path) -> None:
    checkpoint = load_checkpoint(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.layer(0)
