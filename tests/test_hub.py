from fnmatch import fnmatch
from pathlib import Path

import pytest

from host import hub
from host.hub import NEEDED_FILES, locate
from shard_store.errors import CheckpointError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def forbid_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub_id: str, allow_patterns: list[str]) -> str:
        raise AssertionError(f"the hub was asked for {hub_id}")

    monkeypatch.setattr(hub, "snapshot_download", download)


def test_local_directory_wins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_download(monkeypatch)
    (here / "owner" / "name").mkdir(parents=True)
    assert locate("owner/name") == Path("owner/name")
    assert locate(here) == here


def test_home_is_expanded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    (here / "model").mkdir()
    assert locate("~/model") == here / "model"


@pytest.mark.parametrize("source", ["./model", "../model", "/no/model", "a/b/c", "model/", "~/model", "owner/name"])
def test_missing_path_says_so(here: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    forbid_download(monkeypatch)
    monkeypatch.setenv("HOME", str(here / "home"))
    (here / "owner").mkdir()
    (here / "home").mkdir()
    with pytest.raises(CheckpointError, match="no such directory"):
        locate(source)


def test_missing_path_object_is_never_a_hub_id(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_download(monkeypatch)
    with pytest.raises(CheckpointError, match="no such directory"):
        locate(Path("bert-base-uncased"))


def test_file_instead_of_directory(here: Path) -> None:
    (here / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; give the directory"):
        locate("model.safetensors")


@pytest.mark.parametrize("hub_id", ["bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
def test_hub_id_fetches_only_what_is_needed(here: Path, monkeypatch: pytest.MonkeyPatch, hub_id: str) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(hub_id: str, allow_patterns: list[str]) -> str:
        asked.append((hub_id, allow_patterns))
        return str(here)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert locate(hub_id) == here
    assert asked == [(hub_id, list(NEEDED_FILES))]


@pytest.mark.parametrize("error", [OSError("offline\nsecond line"), ValueError("offline"), RuntimeError("offline")])
def test_hub_failure_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(hub_id: str, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(CheckpointError) as caught:
        locate("owner/name")
    assert str(caught.value) == "owner/name: not a local directory, and not fetched from the Hugging Face hub: offline"


def test_patterns_take_the_model_and_nothing_larger() -> None:
    def wanted(file: str) -> bool:
        return any(fnmatch(file, pattern) for pattern in NEEDED_FILES)

    assert all(wanted(file) for file in ("config.json", "model-00001-of-00002.safetensors", "1_Pooling/config.json"))
    assert not any(wanted(file) for file in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5", "README.md"))
