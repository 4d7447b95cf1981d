import json
from pathlib import Path

import pytest

from host.checkpoint import load_checkpoint
from host.families import BERT, DISTILBERT, ROBERTA, Family, find_family
from shard_store.errors import CheckpointError
from shard_store.head import HeadKind
from tests.model_copies import copy_model, edit_json


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("bert", BERT),
        ("distilbert", DISTILBERT),
        ("roberta", ROBERTA),
        ("xlm-roberta", ROBERTA),
        ("camembert", ROBERTA),
    ],
)
def test_model_types(model_type: str, family: Family) -> None:
    assert find_family(model_type) is family


@pytest.mark.parametrize("model_type", ["gpt2", "deberta-v2", ""])
def test_unknown_family_lists_the_known(tmp_path: Path, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(CheckpointError, match="known: bert, distilbert, roberta, xlm-roberta, camembert"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("architecture", ["BertForQuestionAnswering", "JinaBertModel", "RobertaModel"])
def test_unknown_architecture_lists_the_known(tmp_path: Path, architecture: str) -> None:
    model = copy_model("bert-token", tmp_path)
    edit_json(model / "config.json", architectures=[architecture])
    with pytest.raises(CheckpointError, match=f"'{architecture}' is not supported for bert; known: BertModel, "):
        load_checkpoint(model)


def test_architecture_decides_the_task() -> None:
    assert DISTILBERT.head_kind("DistilBertModel") is HeadKind.EMBEDDING
    assert ROBERTA.head_kind("XLMRobertaForMaskedLM") is HeadKind.EMBEDDING
    assert BERT.head_kind("BertForTokenClassification") is HeadKind.TOKEN_CLASSIFICATION
