"""The importance profile inside a store: comes back, is refused when impossible, is replaced whole."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shard_store.errors import FormatError
from shard_store.manifest import Manifest
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.profile import Profile, ProfileMethod, first_layers
from shard_store.profile_writer import write_profile
from shard_store.reader import Store
from tests.stores import write_store


def profile_of(manifest: Manifest) -> Profile:
    layers, slices = manifest.geometry.layers, manifest.geometry.slices
    grid = tuple(tuple(1.0 / (layer + part + 1) for part in range(slices)) for layer in range(layers))
    return Profile(
        metric="accuracy", samples=100, data_sha256="0" * 64, method=ProfileMethod.EXACT, metrics=grid,
        submodel_loss=grid, shard_loss=dict.fromkeys(manifest.bitwidths, grid), layer_choices=first_layers(layers),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def manifest(store: Path) -> Manifest:
    with Store.open(store) as opened:
        return opened.manifest


def test_a_profile_is_written_read_and_replaced(store: Path, manifest: Manifest) -> None:
    first = profile_of(manifest)
    write_profile(store, first)
    write_profile(store, replace(first, samples=7))
    with Store.open(store) as opened:
        opened.verify(lambda *_: None)
        assert opened.manifest.profile == replace(first, samples=7)
    assert not list(store.glob(".*"))


def test_a_profile_that_cannot_be_leaves_the_manifest(store: Path, manifest: Manifest) -> None:
    before = (store / "manifest.json").read_bytes()
    with pytest.raises(FormatError, match="submodel_loss must be 2 rows of 4 numbers"):
        write_profile(store, replace(profile_of(manifest), submodel_loss=()))
    assert (store / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(version=2), "version is 2, this program reads 1; profile again"),
        (lambda p: p.update(extra=1), "unknown field 'extra'"),
        (lambda p: p.pop("method"), "field 'method' is missing"),
        (lambda p: p["metrics"].pop(), "metrics must be 2 rows of 4 numbers"),
        (lambda p: p["shard_loss"].pop("2"), r"bitwidths are \[32\], the store has \[2, 32\]"),
        (lambda p: p["shard_loss"]["2"][0].__setitem__(0, -0.1), "shard_loss at 2 bits must hold finite numbers"),
        (lambda p: p["submodel_loss"][0].__setitem__(0, "x"), "submodel_loss: must hold finite numbers"),
        (lambda p: p["layer_choices"].__setitem__(1, [1, 0]), r"layer choice \[1, 0\] of depth 2 is impossible"),
        (lambda p: p.update(samples=0), "samples: must be an integer from 1"),
    ],
)
def test_bad_profiles_are_refused(manifest: Manifest, change: Callable[[dict[str, Any]], object], message: str) -> None:
    document = json.loads(dump_manifest(replace(manifest, profile=profile_of(manifest))))
    change(document["profile"])
    del document["sha256"]
    document["sha256"] = hashlib.sha256(canonical(document)).hexdigest()
    with pytest.raises(FormatError, match=message):
        parse_manifest(canonical(document))


def canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
