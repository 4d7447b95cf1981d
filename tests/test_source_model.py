import json
from pathlib import Path

import pytest

from host.checkpoint import Checkpoint
from host.source_model import open_model
from host.vision_checkpoint import VisionCheckpoint
from shard_store.errors import CheckpointError


def test_each_family_is_opened_by_its_reader(golden_models: Path, shared_models: Path) -> None:
    assert isinstance(open_model(golden_models / "roberta-embedding"), Checkpoint)
    assert isinstance(open_model(shared_models / "vit-mnist"), VisionCheckpoint)


def test_an_unknown_family_is_refused_with_the_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(CheckpointError, match=r"'mamba' is not supported; known: bert, distilbert, .*, vit"):
        open_model(tmp_path)
