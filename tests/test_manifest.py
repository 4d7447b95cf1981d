import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_store.errors import ChecksumError, FormatError, PlanError
from shard_store.geometry import ShardKey
from shard_store.manifest import TemplateKey
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.template import TemplateKind
from tests.stores import small_description, write_store


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    store: Path = tmp_path_factory.mktemp("manifest") / "store"
    write_store(store)
    return (store / "manifest.json").read_bytes()


def signed(document: dict[str, Any]) -> bytes:
    """The document with the checksum that makes it pass as intact."""
    body = {key: value for key, value in document.items() if key != "sha256"}
    document["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    return canonical(document)


def canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def test_manifest_comes_back(raw: bytes) -> None:
    manifest = parse_manifest(raw)
    assert dump_manifest(manifest) == raw
    assert manifest.description == small_description()
    assert manifest.bitwidths == (2, 32)


def test_what_is_not_stored_is_a_plan_error(raw: bytes) -> None:
    manifest = parse_manifest(raw)
    for key in (ShardKey(0, 0, 3), ShardKey(2, 0, 2), ShardKey(0, 4, 2), ShardKey(0, -1, 2)):
        with pytest.raises(PlanError, match=str(key)):
            manifest.shard_span(key)
    with pytest.raises(PlanError, match="no int8 template of 2 slices, sequence 16"):
        manifest.template_span(TemplateKey(TemplateKind.INT8, 2, 16))


def edit(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def apply(root: dict[str, Any]) -> None:
        document: Any = root
        *parents, last = path.split("/")
        for parent in parents:
            document = document[int(parent) if isinstance(document, list) else parent]
        if isinstance(value, type(...)):
            del document[last]
        else:
            document[int(last) if isinstance(document, list) else last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("format_version", 2, "format_version is 2, this program reads 1"),
        ("format_version", True, "format_version is True"),
        ("family", "mamba", "known are bert, distilbert, roberta"),
        ("family", "distilbert", "distilbert needs"),
        ("surprise", 1, "unknown field 'surprise'"),
        ("geometry/surprise", 1, "geometry: unknown field 'surprise'"),
        ("model", ..., "field 'model' is missing"),
        ("model", "two\nlines", "model: must be"),
        ("geometry/layers", 3, "2 layers, the geometry has 3"),
        ("geometry/layers", 2.0, "layers: must be an integer"),
        ("geometry/slices", 2, "at most 2 values"),
        ("geometry/norm_eps", "x", "norm_eps: must be a finite number"),
        ("geometry/activation", "swish", "must be one of gelu"),
        ("geometry/hidden", 1 << 40, "hidden: must be an integer"),
        ("head/kind", "embedding", "embedding with 3 labels"),
        ("head/labels", ["one"], "1 labels for 3 outputs"),
        ("head/layers", [], "needs at least one dense layer"),
        ("head/normalize", 0, "normalize: must be true or false"),
        ("head/layers/0/weight", "head.2.weight", "head.2.weight is missing"),
        ("head/layers/0/weight", "head.1.weight", "head.1.weight has shape"),
        ("sequences", [32, 16], "must ascend"),
        ("sequences", [], "must ascend"),
        ("max_tokens", 49, "needs more than the 48 positions"),
        ("position_offset", 9, "needs more than the 48 positions"),
        ("tokenizer", "../tokenizer.json", "tokenizer: must be"),
        ("files/..\\x", {"bytes": 1, "sha256": "0" * 64}, "not part of a store"),
        ("files/resident.bin", ..., "'resident.bin' is missing"),
        ("files/shards-2.bin/bytes", 4096, "shards need"),
        ("files/resident.bin/bytes", 64, "behind the end of 64"),
        ("files/embeddings.bin/bytes", 64, "behind the end of 64"),
        ("files/templates.bin/bytes", 64, "behind the end of 64"),
        ("files/resident.bin/sha256", "xyz", "sha256: must be"),
        ("shards", {}, "no shards"),
        ("shards/7", [], "unknown field '7'"),
        ("shards/2/0/1/0", 64, "must be at"),
        ("shards/2/0/0/1", 100, "has 100 bytes, must have"),
        ("shards/2/0/0/2", -1, "must be an integer"),
        ("shards/2/0/0", [0, 1], "must be \\[offset, length, crc32\\]"),
        ("shards/2/0", [], "layer 0 has 0 slices"),
        ("resident/layer.0.output.scale", ..., "layer.0.output.scale is missing"),
        ("resident/layer.0.output.bias/shape", [64], "has shape"),
        ("resident/layer.0.output.bias/shape", [1, 1, 1], "at most 2 values"),
        ("resident/head.1.bias/shape", [], "shape is empty"),
        ("resident/layer.0.output.bias/offset", 1, "not a multiple of 64"),
        ("resident/layer.0.output.bias/offset", 0, "overlaps"),
        ("resident/layer.0.output.bias/dtype", "float64", "dtype: must be"),
        ("resident/UPPER", {"dtype": "float32", "shape": [1], "offset": 0, "crc32": 0}, "overlaps|must be a string"),
        ("row_tables/word/stride", 16, "stride: must be"),
        ("row_tables/word/columns", 8, "stride: must be"),
        ("row_tables/word/rows", 51, "overlaps"),
        ("row_tables/token_type", ..., "bert needs"),
        ("templates/0/sequence", 17, "no such width or sequence"),
        ("templates/0/slices", 5, "no such width or sequence"),
        ("templates/0/slices", 4, "two templates"),
        ("templates/0/length", 0, "has 0 bytes"),
        ("templates/0/offset", 1 << 41, "offset: must be"),
    ],
)  # fmt: skip
def test_rules_of_the_format(raw: bytes, path: str, value: object, match: str) -> None:
    document = json.loads(raw)
    edit(path, value)(document)
    with pytest.raises(FormatError, match=match):
        parse_manifest(signed(document))


def test_escaping_file_names_are_refused(raw: bytes) -> None:
    for name in ("../resident.bin", "/etc/passwd", "a/b", "", ".", "manifest.json", "shards-3.bin"):
        document = json.loads(raw)
        document["files"][name] = {"bytes": 1, "sha256": "0" * 64}
        with pytest.raises(FormatError, match="not part of a store"):
            parse_manifest(signed(document))


def test_every_flipped_byte_is_found(raw: bytes) -> None:
    for place in range(0, len(raw), 7):
        broken = bytearray(raw)
        broken[place] ^= 1
        with pytest.raises(FormatError):
            parse_manifest(bytes(broken))


def test_other_spellings_of_the_same_values_are_refused(raw: bytes) -> None:
    document = json.loads(raw)
    for other in (raw + b"\n", json.dumps(document).encode(), raw.replace(b'"family"', b'"family":"bert","family"')):
        with pytest.raises(ChecksumError, match="differs from what was written"):
            parse_manifest(other)


@pytest.mark.parametrize(
    "broken", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000, b'{"format_version":NaN}', b"9" * 5000]
)  # fmt: skip
def test_what_is_not_json_is_refused(broken: bytes) -> None:
    with pytest.raises(FormatError):
        parse_manifest(broken)


def places(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items: Iterable[tuple[Any, object]] = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        found += places(item, (*path, key))
    return found


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-1, 5000)
    | st.floats(allow_nan=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_fuzzed_values_raise_only_format_errors(raw: bytes, data: st.DataObject) -> None:
    """Whatever passes the checks is a manifest that dumps and parses again."""
    document = json.loads(raw)
    del document["sha256"]
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(places(document)))
        target = document
        for parent in parents:
            target = target[parent]
        target[last] = data.draw(VALUES)
    try:
        manifest = parse_manifest(signed(document))
    except FormatError as error:
        assert "\n" not in str(error)
        return
    assert parse_manifest(dump_manifest(manifest)) == manifest


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_fuzzed_bytes_raise_only_format_errors(raw: bytes, data: st.DataObject) -> None:
    broken = bytearray(raw)
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4, unique=True)):
        broken[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(raw), len(raw) // 2]))
    with pytest.raises(FormatError):
        parse_manifest(bytes(broken[:cut]))
