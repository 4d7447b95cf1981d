from pathlib import Path

import pytest

from host.encoder_config import EncoderConfig, read_model_type
from host.model_config import read_model_config
from shard_store.errors import CheckpointError
from shard_store.geometry import Activation
from tests.model_copies import copy_model, edit_json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_model("bert-token", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key', must be 'absolute'"),
        ({"is_decoder": True}, "is_decoder or add_cross_attention is true"),
        ({"add_cross_attention": True}, "is_decoder or add_cross_attention is true"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', must be one of gelu, "),
        ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
        ({"id2label": {"0": "a", "2": "b"}}, r"id2label has the ids \[0, 2\], must be 0 to 1"),
        ({"hidden_size": ...}, "hidden_size: Field required"),
        ({"hidden_size": 0}, "hidden_size: Input should be greater than 0"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers: Input should be a valid integer"),
        ({"num_attention_heads": 5}, "geometry: hidden 32 is not a multiple of heads 5"),
        ({"num_hidden_layers": 10**9}, "geometry: layers is 1000000000, must be 1 to 1024"),
        ({"architectures": []}, "architectures: "),
        ({"architectures": ...}, "architectures: Field required"),
        ({"classifier_pooling": "max"}, "classifier_pooling: Input should be 'cls' or 'mean'"),
        ({"problem_type": "ranking"}, "problem_type: Input should be 'regression'"),
    ],
)
def test_refused_with_the_key_and_the_value(model: Path, changes: dict[str, object], message: str) -> None:
    edit_json(model / "config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}") as caught:
        read_model_config(model, EncoderConfig)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gelu", Activation.GELU), ("gelu_pytorch_tanh", Activation.GELU_TANH), ("relu", Activation.RELU)],
)
def test_activations(model: Path, name: str, expected: Activation) -> None:
    edit_json(model / "config.json", hidden_act=name)
    assert read_model_config(model, EncoderConfig).activation is expected


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_malformed(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: the file: ") as caught:
        read_model_type(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read \(No such file or directory\)"):
        read_model_type(tmp_path)


def test_labels_without_names(model: Path) -> None:
    edit_json(model / "config.json", id2label=..., num_labels=3)
    assert read_model_config(model, EncoderConfig).labels == ("LABEL_0", "LABEL_1", "LABEL_2")
