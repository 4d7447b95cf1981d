import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from host.tokenizer_file import read_max_tokens, read_tokenizer
from shard_store.errors import CheckpointError
from tests.model_copies import GOLDEN, copy_model, edit_json

CASES = json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return copy_model("bert-token", tmp_path)


def test_stored_padding_and_truncation_are_removed(model: Path) -> None:
    stored = Tokenizer.from_file(str(model / "tokenizer.json"))
    assert stored.padding is not None
    assert stored.truncation is not None
    tokenizer = Tokenizer.from_str(read_tokenizer(model, 100).decode())
    assert tokenizer.padding is None
    assert tokenizer.truncation is None


@pytest.mark.parametrize("name", ["bert-token", "roberta-sequence"])
def test_tokens_are_the_golden_ones(name: str) -> None:
    tokenizer = Tokenizer.from_str(read_tokenizer(GOLDEN / name, 100).decode())
    case = CASES[name]
    for text, ids, mask in zip(case["texts"], case["input_ids"], case["attention_mask"], strict=True):
        assert tokenizer.encode(text).ids == ids[: sum(mask)]


def test_missing_says_how_to_make_it(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"missing; make it with AutoTokenizer.*use_fast=True.*save_pretrained"):
        read_tokenizer(model, 100)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe"])
def test_malformed(model: Path, content: bytes) -> None:
    (model / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        read_tokenizer(model, 100)


def test_ids_beyond_the_embeddings(model: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected token ids 0 to 9, found .* as the highest"):
        read_tokenizer(model, 10)


def test_max_tokens(model: Path) -> None:
    assert read_max_tokens(model) == 20
    edit_json(model / "tokenizer_config.json", model_max_length=10**30)
    assert read_max_tokens(model) is None
    (model / "tokenizer_config.json").unlink()
    assert read_max_tokens(model) is None
