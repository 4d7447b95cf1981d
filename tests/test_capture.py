"""What calibration sees: real tokens only, carried through the float model."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from host import capture
from host.calibrate import HessianAccumulator, HessianFactor
from host.capture import MAX_TEXTS, Capture, layer_tensors, read_texts
from host.checkpoint import load_checkpoint
from shard_store.errors import CheckpointError
from tests.model_copies import copy_model
from tests.reference import Floats, reference_forward

TEXTS = [
    "good", "the bad film", "a dull film", "the cat sat on the warm mat .",
    "good film", "bad cat", "warm mat", "dull .",
]  # fmt: skip


class Inputs:
    """Stands in for the accumulator: keeps what it is given."""

    made: list["Inputs"] = []  # noqa: RUF012 - reset by every test

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[Floats] = []
        Inputs.made.append(self)

    def add(self, inputs: Floats) -> None:
        assert inputs.shape[1] == self.columns
        self.rows.append(inputs)

    def factor(self) -> HessianFactor:
        accumulator = HessianAccumulator(self.columns)
        accumulator.add(self.all())
        return accumulator.factor()

    def all(self) -> Floats:
        return np.concatenate(self.rows)


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    monkeypatch.setattr(Inputs, "made", [])
    monkeypatch.setattr(capture, "HessianAccumulator", Inputs)
    return Inputs.made


@pytest.mark.parametrize("name", ["bert-sequence", "distilbert-sequence", "roberta-embedding"])
def test_layers_see_what_the_reference_computes_for_each_text_alone(
    name: str, golden_models: Path, inputs: list[Inputs]
) -> None:
    checkpoint = load_checkpoint(golden_models / name)
    geometry = checkpoint.geometry()
    tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)
    tokenizer.no_padding()
    answers = [reference_forward(checkpoint, [tokenizer.encode(text).ids]) for text in TEXTS]
    stages = [[answer.embedded[0] for answer in answers], [answer.hidden[0][0] for answer in answers]]
    carried = Capture(checkpoint, geometry, TEXTS)
    for layer, expected in enumerate(stages):
        inputs.clear()
        carried.advance(checkpoint.layer(layer))
        found, wanted = inputs[0].all(), np.concatenate(expected)
        assert found.shape == wanted.shape, "padding is left out"
        np.testing.assert_allclose(found.sum(axis=0), wanted.sum(axis=0), atol=2e-3)
        np.testing.assert_allclose(found.T @ found, wanted.T @ wanted, atol=2e-2)
        assert len(inputs) == 2 + 2 * geometry.slices
        assert {len(one.all()) for one in inputs} == {len(wanted)}


def test_every_matrix_has_the_factor_of_its_inputs(golden_models: Path) -> None:
    checkpoint = load_checkpoint(golden_models / "bert-sequence")
    geometry = checkpoint.geometry(2)
    hessians = Capture(checkpoint, geometry, TEXTS).advance(checkpoint.layer(0))
    assert hessians.of("query", 0) is hessians.of("key", 1) is hessians.of("value", 0) is hessians.hidden
    assert hessians.of("ffn_up", 1) is hessians.normed
    assert [hessians.of("output", index) for index in (0, 1)] == list(hessians.attended)
    assert [hessians.of("ffn_down", index) for index in (0, 1)] == list(hessians.activated)


@pytest.mark.parametrize("length", [12, 500])
def test_padding_that_the_tokenizer_asks_for_is_not_text(length: int, tmp_path: Path, inputs: list[Inputs]) -> None:
    model = copy_model("bert-sequence", tmp_path)
    tokens = []
    for padded in (False, True):
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        tokenizer.no_padding()
        if padded:
            tokenizer.enable_padding(length=length)
        tokenizer.save(str(model / "tokenizer.json"))
        checkpoint = load_checkpoint(model)
        inputs.clear()
        Capture(checkpoint, checkpoint.geometry(), TEXTS).advance(checkpoint.layer(0))
        tokens.append(len(inputs[0].all()))
    assert tokens[0] == tokens[1]


def test_long_texts_are_cut_to_the_model_s_limit(golden_models: Path, inputs: list[Inputs]) -> None:
    checkpoint = load_checkpoint(golden_models / "bert-sequence")
    Capture(checkpoint, checkpoint.geometry(), ["good " * 500] * 8).advance(checkpoint.layer(0))
    assert len(inputs[0].all()) == 8 * checkpoint.max_tokens


def test_texts_are_the_lines_that_are_not_empty(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text("\n".join(["  one ", "", "\t", *(f"text {number}" for number in range(2 * MAX_TEXTS))]), "utf-8")
    texts = read_texts(path)
    assert texts[:3] == ["one", "text 0", "text 1"]
    assert len(texts) == MAX_TEXTS


@pytest.mark.parametrize(
    ("content", "message"), [(b"one\ntwo\n", "2 lines, give at least 8"), (b"\xff" * 9, "cannot be read")]
)
def test_texts_that_do_not_serve_are_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_texts(tmp_path / "texts")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_texts(tmp_path / "missing")


def test_canonical_weights_are_renamed_not_copied(golden_models: Path) -> None:
    weights = load_checkpoint(golden_models / "bert-sequence").layer(1)
    tensors = layer_tensors(weights)
    assert tensors.ffn_up is weights.ffn_up.weight
    assert tensors.output_bias is weights.output.bias
    assert tensors.ffn_norm_gamma is weights.ffn_norm.gamma
    assert tensors.attention_norm_beta is weights.attention_norm.beta
