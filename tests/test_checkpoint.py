import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from host.checkpoint import Checkpoint, load_checkpoint
from host.encoder_config import ProblemType
from host.weight_files import WeightFiles
from host.weights import Float32Array
from shard_store.errors import CheckpointError, FormatError
from shard_store.geometry import Activation
from shard_store.head import HeadActivation, HeadKind, Pooling
from tests.model_copies import GOLDEN, copy_model, edit_json, edit_tensors
from tests.reference import reference_forward

NAMES = (
    "bert-embedding",
    "bert-sequence",
    "bert-token",
    "distilbert-sequence",
    "roberta-sequence",
    "roberta-embedding",
)
TOLERANCE = 1e-4


def golden(name: str) -> dict[str, Any]:
    case: dict[str, Any] = json.loads((GOLDEN / "golden.json").read_text())[name]
    return case


def check_golden(checkpoint: Checkpoint, case: dict[str, Any]) -> None:
    answer = reference_forward(checkpoint, case["input_ids"], case["token_type_ids"], case["attention_mask"])
    present = np.array(case["attention_mask"]) != 0
    np.testing.assert_allclose(
        answer.hidden[-1][present], np.array(case["hidden_states"])[present], rtol=0, atol=TOLERANCE
    )
    found, expected = answer.output, np.array(case["output"])
    assert found.shape == expected.shape
    if found.ndim == 3:  # padding tokens have logits too, but no meaning
        found, expected = found[present], expected[present]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_reproduces_transformers(name: str) -> None:
    check_golden(load_checkpoint(GOLDEN / name), golden(name))


def test_reproduces_a_trained_classifier(shared_models: Path) -> None:
    folder = shared_models / "minilm-sst2"
    checkpoint = load_checkpoint(folder)
    for case in json.loads((folder / "golden.json").read_text())["inputs"]:
        answer = reference_forward(checkpoint, [case["input_ids"]], [case["token_type_ids"]])
        np.testing.assert_allclose(answer.output[0], case["logits"], rtol=0, atol=TOLERANCE)
    assert checkpoint.head.labels == ("negative", "positive")


def test_reproduces_trained_submodels(shared_models: Path) -> None:
    folder = shared_models / "minilm-sst2-elastic"
    checkpoint = load_checkpoint(folder)
    for case in json.loads((folder / "golden.json").read_text())["inputs"][:3]:
        for name, logits in case["submodel_logits"].items():
            layers, kept = (int(part) for part in name[1:].split("m"))
            answer = reference_forward(
                checkpoint, [case["input_ids"]], [case["token_type_ids"]], layers=range(layers), kept_slices=kept
            )
            np.testing.assert_allclose(answer.output[0], logits, rtol=0, atol=TOLERANCE)


def test_canonical_shapes_and_types() -> None:
    checkpoint = load_checkpoint(str(GOLDEN / "distilbert-sequence"))
    layer = checkpoint.layer(1)
    assert layer.query.weight.shape == layer.output.weight.shape == (32, 32)
    assert layer.ffn_up.weight.shape == (48, 32)
    assert layer.ffn_up.bias.shape == (48,)
    assert layer.ffn_down.weight.shape == (32, 48)
    assert layer.ffn_norm.gamma.shape == checkpoint.embedding_norm().beta.shape == (32,)
    assert layer.query.weight.dtype == layer.query.bias.dtype == np.float32
    assert layer.query.weight.flags.c_contiguous


@pytest.mark.parametrize("index", [-1, 2])
def test_layer_out_of_range(index: int) -> None:
    with pytest.raises(CheckpointError, match="must be 0 to 1"):
        load_checkpoint(GOLDEN / "bert-token").layer(index)


def test_geometry() -> None:
    checkpoint = load_checkpoint(GOLDEN / "roberta-sequence")
    geometry = checkpoint.geometry()
    assert (geometry.layers, geometry.hidden, geometry.heads, geometry.ffn, geometry.slices) == (2, 32, 4, 48, 4)
    assert geometry.norm_eps == 1e-5
    assert checkpoint.geometry(2).slices == 2
    with pytest.raises(FormatError, match="not a multiple of slices 3"):
        checkpoint.geometry(3)


@pytest.mark.parametrize(
    ("name", "family", "kind", "pooling", "activation"),
    [
        ("bert-embedding", "bert", HeadKind.EMBEDDING, Pooling.MEAN, Activation.GELU),
        ("bert-sequence", "bert", HeadKind.SEQUENCE_CLASSIFICATION, Pooling.CLS, Activation.GELU_TANH),
        ("bert-token", "bert", HeadKind.TOKEN_CLASSIFICATION, None, Activation.RELU),
        ("distilbert-sequence", "distilbert", HeadKind.SEQUENCE_CLASSIFICATION, Pooling.CLS, Activation.GELU),
        ("roberta-embedding", "roberta", HeadKind.EMBEDDING, Pooling.CLS, Activation.GELU),
    ],
)
def test_families_and_heads(
    name: str, family: str, kind: HeadKind, pooling: Pooling | None, activation: Activation
) -> None:
    checkpoint = load_checkpoint(GOLDEN / name)
    assert checkpoint.family == family
    assert checkpoint.head.kind is kind
    assert checkpoint.head.pooling is pooling
    assert checkpoint.head.normalize is (name == "bert-embedding")
    assert checkpoint.geometry().activation is activation


def test_sequence_head_layers() -> None:
    head = load_checkpoint(GOLDEN / "distilbert-sequence").head
    assert [dense.activation for dense in head.dense] == [HeadActivation.RELU, HeadActivation.NONE]
    assert [dense.weight.shape for dense in head.dense] == [(32, 32), (2, 32)]
    assert head.labels == ("LABEL_0", "LABEL_1")


def test_classifier_pooling_is_read(tmp_path: Path) -> None:
    model = copy_model("bert-sequence", tmp_path)
    edit_json(model / "config.json", classifier_pooling="mean")
    assert load_checkpoint(model).head.pooling is Pooling.MEAN


@pytest.mark.parametrize(
    ("stored", "labels", "expected"),
    [
        (..., 3, ProblemType.SINGLE_LABEL),
        ("multi_label_classification", 3, ProblemType.MULTI_LABEL),
        (None, 1, ProblemType.REGRESSION),
    ],
)
def test_problem_type(tmp_path: Path, stored: object, labels: int, expected: ProblemType) -> None:
    model = copy_model("bert-sequence", tmp_path)
    names = {str(index): f"label {index}" for index in range(labels)}
    edit_json(model / "config.json", problem_type=stored, id2label=names)
    edit_tensors(
        model,
        lambda tensors: (
            tensors | {key: tensors[key][:labels].copy() for key in ("classifier.weight", "classifier.bias")}
        ),
    )
    assert load_checkpoint(model).head.problem_type is expected


def test_labels_in_order_of_their_ids(tmp_path: Path) -> None:
    model = copy_model("bert-token", tmp_path)
    edit_json(model / "config.json", id2label={"2": "c", "0": "a", "1": "b"})
    assert load_checkpoint(model).head.labels == ("a", "b", "c")


def test_tables_are_halved_only_without_loss() -> None:
    halves = load_checkpoint(GOLDEN / "bert-sequence").tables()
    assert halves.word.dtype == halves.position.dtype == np.float16
    assert halves.word.shape == (100, 32)
    assert halves.token_type is not None
    assert halves.token_type.shape == (2, 32)
    assert load_checkpoint(GOLDEN / "bert-embedding").tables().word.dtype == np.float32


def test_float32_file_with_float16_values_is_halved(tmp_path: Path) -> None:
    model = copy_model("bert-sequence", tmp_path)
    edit_tensors(model, lambda tensors: {key: value.astype(np.float32) for key, value in tensors.items()})
    assert load_checkpoint(model).tables().word.dtype == np.float16


def test_values_beyond_float16_stay_float32(tmp_path: Path) -> None:
    model = copy_model("bert-embedding", tmp_path)
    edit_tensors(model, lambda tensors: {key: np.full_like(value, 2.0**20) for key, value in tensors.items()})
    assert load_checkpoint(model).tables().word.dtype == np.float32


def test_distilbert_has_no_token_types() -> None:
    assert load_checkpoint(GOLDEN / "distilbert-sequence").tables().token_type is None


def test_positions() -> None:
    assert load_checkpoint(GOLDEN / "bert-token").position_offset == 0
    assert load_checkpoint(GOLDEN / "roberta-sequence").position_offset == 2
    assert load_checkpoint(GOLDEN / "roberta-sequence").tables().position.shape == (24, 32)


@pytest.mark.parametrize(("stored", "expected"), [(..., 22), (10**30, 22), (1e30, 22), (17, 17), (-1, 22), (500, 22)])
def test_max_tokens(tmp_path: Path, stored: object, expected: int) -> None:
    model = copy_model("roberta-sequence", tmp_path)
    edit_json(model / "tokenizer_config.json", model_max_length=stored)
    assert load_checkpoint(model).max_tokens == expected


def test_max_tokens_of_sentence_transformers(tmp_path: Path) -> None:
    model = copy_model("bert-embedding", tmp_path)
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert load_checkpoint(model).max_tokens == 12


@pytest.mark.parametrize("padding", [-1, 23])
def test_padding_id_outside_the_positions(tmp_path: Path, padding: int) -> None:
    model = copy_model("roberta-sequence", tmp_path)
    edit_json(model / "config.json", pad_token_id=padding)
    with pytest.raises(CheckpointError, match=f"pad_token_id is {padding}, must be 0 to 22"):
        load_checkpoint(model)


@pytest.mark.parametrize(
    ("model_type", "stem"), [("xlm-roberta", "XLMRoberta"), ("camembert", "Camembert"), ("roberta", "Roberta")]
)
def test_relatives_of_roberta(tmp_path: Path, model_type: str, stem: str) -> None:
    model = copy_model("roberta-sequence", tmp_path)
    edit_json(model / "config.json", model_type=model_type, architectures=[f"{stem}ForSequenceClassification"])
    checkpoint = load_checkpoint(model)
    assert checkpoint.family == "roberta"
    check_golden(checkpoint, golden("roberta-sequence"))


def test_encoder_names_with_prefix(tmp_path: Path) -> None:
    model = copy_model("bert-embedding", tmp_path)
    edit_tensors(model, lambda tensors: {f"bert.{key}": value for key, value in tensors.items()})
    check_golden(load_checkpoint(model), golden("bert-embedding"))


def test_language_model_head_is_left_out(tmp_path: Path) -> None:
    model = copy_model("bert-embedding", tmp_path)
    edit_json(model / "config.json", architectures=["BertForMaskedLM"])
    edit_tensors(model, lambda tensors: tensors | {"cls.predictions.bias": np.zeros(100, np.float32)})
    check_golden(load_checkpoint(model), golden("bert-embedding"))


def test_values_are_read_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    read = WeightFiles.read

    def record(self: WeightFiles, name: str) -> Float32Array:
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(WeightFiles, "read", record)
    checkpoint = load_checkpoint(GOLDEN / "bert-token")
    assert names == ["classifier.weight", "classifier.bias"]
    names.clear()
    checkpoint.layer(1)
    assert len(names) == 16
    assert all(name.startswith("encoder.layer.1.") for name in names)
