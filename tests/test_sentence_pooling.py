import json
from pathlib import Path

import pytest

from host.sentence_pooling import SentencePooling, read_sentence_pooling
from shard_store.errors import CheckpointError
from shard_store.head import Pooling


def write(folder: Path, kinds: list[str], pooling: dict[str, object], path: str = "1_Pooling") -> None:
    modules = [{"idx": index, "path": path, "type": f"any.package.{kind}"} for index, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_plain_encoder(tmp_path: Path) -> None:
    assert read_sentence_pooling(tmp_path) == SentencePooling(Pooling.MEAN, normalize=False, max_tokens=None)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, Pooling.CLS),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, Pooling.MEAN),
        ({"pooling_mode": "cls", "include_prompt": True}, Pooling.CLS),
        ({"pooling_mode": ["mean"]}, Pooling.MEAN),
        ({}, Pooling.MEAN),
    ],
)
def test_pooling_modes(tmp_path: Path, pooling: dict[str, object], expected: Pooling) -> None:
    write(tmp_path, ["Transformer", "Pooling"], pooling)
    assert read_sentence_pooling(tmp_path) == SentencePooling(expected, normalize=False, max_tokens=None)


def test_normalize_and_longest_text(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Normalize"], {"pooling_mode": "mean"})
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 256, "do_lower_case": false}')
    assert read_sentence_pooling(tmp_path) == SentencePooling(Pooling.MEAN, normalize=True, max_tokens=256)


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
    ],
)
def test_other_modes_are_refused(tmp_path: Path, pooling: dict[str, object], found: str) -> None:
    write(tmp_path, ["Transformer", "Pooling"], pooling)
    with pytest.raises(CheckpointError, match=f"pooling must be cls or mean, found {found}"):
        read_sentence_pooling(tmp_path)


@pytest.mark.parametrize("kinds", [["Transformer", "Pooling", "Dense"], ["CLIPModel"], []])
def test_other_modules_are_refused(tmp_path: Path, kinds: list[str]) -> None:
    write(tmp_path, kinds, {})
    with pytest.raises(CheckpointError, match=f"found {', '.join(kinds) or 'none'}"):
        read_sentence_pooling(tmp_path)


def test_path_may_not_leave_the_directory(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling"], {}, path="../other")
    with pytest.raises(CheckpointError, match="must lie in the same directory"):
        read_sentence_pooling(tmp_path)
