"""Damaged and foreign stores, as a user meets them: one clear line each, and nothing is left behind."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from device_agent.engine import Engine
from shard_store.errors import FormatError
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.span import Span
from shard_store.store_files import FIXED_FILES, MANIFEST_FILE, SHARD_FILES
from shard_store.writer import HashedFile
from tests.cli_runs import Sti
from tests.http_server import serving_loaded
from tests.model_copies import copy_model, edit_json

FILES = (MANIFEST_FILE, *FIXED_FILES, *SHARD_FILES.values())
StoreOf = Callable[[str], Path]


@pytest.fixture
def store(golden_store: StoreOf, tmp_path: Path) -> Path:
    """A store to spoil."""
    return Path(shutil.copytree(golden_store("bert-sequence"), tmp_path / "store"))


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 0x10
    path.write_bytes(data)


def one_line(result_error: str) -> str:
    (line,) = result_error.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("place", [0.0, 0.31, 0.77, 1.0])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_found_and_named(sti: Sti, store: Path, name: str, place: float) -> None:
    flip(store / name, place)
    result = sti("inspect", str(store), "--verify")
    assert result.code == 1
    assert name in one_line(result.err)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_before_anything_is_read(sti: Sti, store: Path, name: str, tmp_path: Path) -> None:
    path = store / name
    path.write_bytes(path.read_bytes()[:-1])
    for command in (("inspect", str(store)), ("push", str(store), "--root", str(tmp_path / "device"))):
        result = sti(*command)
        assert result.code == 1
        assert name in one_line(result.err)
    assert not (tmp_path / "device" / "stores").exists()
    with pytest.raises(FormatError, match=name.replace(".", r"\.")):
        Engine(store)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format_version is 2, this program reads 1"),
        ({"family": "t5"}, "family is 't5', known are bert, distilbert, roberta"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "etc/passwd"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(
    sti: Sti, store: Path, change: dict[str, object], message: str
) -> None:
    path = store / MANIFEST_FILE
    path.write_text(resigned(json.loads(path.read_text()) | change))
    result = sti("inspect", str(store))
    assert result.code == 1
    assert message in one_line(result.err)


def resigned(document: dict[str, object]) -> str:
    """The manifest with the checksum that fits it, as someone who means harm would make it."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    body["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def test_resigning_is_how_the_store_signs(store: Path) -> None:
    raw = (store / MANIFEST_FILE).read_bytes()
    assert resigned(json.loads(raw)).encode() == raw == dump_manifest(parse_manifest(raw))


def test_an_unknown_model_family_is_refused_and_nothing_is_written(sti: Sti, tmp_path: Path) -> None:
    model = copy_model("bert-sequence", tmp_path)
    edit_json(model / "config.json", model_type="t5")
    result = sti("package", str(model), "--out", str(tmp_path / "store"))
    assert result.code == 1
    assert "'t5'" in one_line(result.err)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert-sequence"]


@pytest.mark.parametrize("blocked", ["no folder", "full disk"])
def test_a_store_that_cannot_be_written_leaves_the_old_one(
    sti: Sti, golden_models: Path, store: Path, blocked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (store / MANIFEST_FILE).read_bytes()
    out = store
    if blocked == "no folder":
        out = store / MANIFEST_FILE / "store"  # below a file
    else:

        def full(_file: HashedFile, _data: bytes, _alignment: int = 1) -> Span:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(store))

        monkeypatch.setattr(HashedFile, "append", full)
    result = sti("package", str(golden_models / "bert-sequence"), "--out", str(out), "--seq", "16")
    assert result.code == 1
    assert str(store) in one_line(result.err)
    assert (store / MANIFEST_FILE).read_bytes() == before
    assert [path.name for path in store.parent.iterdir() if path.name.startswith(".")] == []


REQUESTS = {
    "no JSON": ({"content": b"{"}, 400),
    "an unknown field": ({"json": {"input": "a", "bitz": 4}}, 400),
    "no input": ({"json": {}}, 400),
    "an over-long text": ({"json": {"input": "film " * 500}}, 400),
    "bits that no store has": ({"json": {"input": "a", "bits": 7}}, 400),
    "more layers than there are": ({"json": {"input": "a", "layers": 99}}, 400),
    "a lone surrogate": ({"content": b'{"input": "\\ud800"}'}, 400),
    "a body without end": ({"content": b" " * (2 << 20)}, 413),
    "a number as a text": ({"json": {"input": 3}}, 400),
}


def test_bad_requests_are_told_apart_and_the_agent_stays_up(golden_store: StoreOf) -> None:
    with serving_loaded(Engine(golden_store("bert-sequence"))) as client:
        for name, (request, status) in REQUESTS.items():
            headers = {"Content-Type": "application/json"}
            response = client.post("/v1/classify", headers=headers, **request)  # type: ignore[arg-type]
            assert response.status_code == status, name
            message = response.json()["error"]["message"]
            assert "\n" not in message and 10 < len(message) < 300, name
        for method, path, status in (("GET", "/v1/classify", 405), ("POST", "/nothing", 404)):
            assert refused(client, method, path) == status
        assert client.post("/v1/classify", json={"input": "a good film"}).status_code == 200


def refused(client: httpx.Client, method: str, path: str) -> int:
    response = client.request(method, path)
    assert response.json()["error"]["message"]
    return response.status_code
