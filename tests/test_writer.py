import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from shard_store.codec import pack_shard
from shard_store.errors import FormatError
from shard_store.geometry import ShardKey
from shard_store.reader import Store
from shard_store.row_table import RowType
from shard_store.store_files import MANIFEST_FILE
from shard_store.template import TemplateKind
from shard_store.writer import StoreWriter
from tests.stores import (
    fill_store,
    random_biases,
    random_floats,
    random_matrices,
    small_description,
    small_geometry,
    small_template,
    write_store,
)  # fmt: skip

GEOMETRY = small_geometry()


def snapshot(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def payload(bitwidth: int) -> bytes:
    generator = np.random.default_rng(0)
    matrices = random_matrices(generator, GEOMETRY, bitwidth)
    return pack_shard(matrices, random_biases(generator, GEOMETRY), GEOMETRY, bitwidth)


def test_finish_gives_the_manifest_of_what_is_on_flash(tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "store", bitwidths=(2, 8, 32))
    with Store.open(tmp_path / "store") as store:
        assert store.manifest == manifest
        store.verify()
    assert {file.name for file in (tmp_path / "store").iterdir()} == {*manifest.files, "manifest.json"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    write_store(tmp_path / "one")
    write_store(tmp_path / "two")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_layers_start_on_pages_and_slices_follow_each_other(tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "store", bitwidths=(3, 5))
    for layers in manifest.shards.values():
        for layer in layers:
            assert layer[0].offset % 4096 == 0
            assert all(0 <= after.offset - before.end < 64 for before, after in pairwise(layer))


def test_a_new_store_replaces_the_old_one(tmp_path: Path) -> None:
    write_store(tmp_path / "store", seed=1)
    old = snapshot(tmp_path / "store")
    write_store(tmp_path / "store", bitwidths=(4,), seed=2)
    assert snapshot(tmp_path / "store").keys() == old.keys() - {"shards-2.bin", "shards-32.bin"} | {"shards-4.bin"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize("content", ["notes.txt", "manifest.json and notes.txt", "a file"])
def test_what_is_not_a_store_is_not_replaced(tmp_path: Path, content: str) -> None:
    out = tmp_path / "precious"
    if content == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        for name in content.split(" and "):
            (out / name).write_text("mine")
    with pytest.raises(FormatError, match="is not a store"), StoreWriter(out, small_description(), (2,)):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["precious"]


def test_an_exception_leaves_the_old_store(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    old = snapshot(tmp_path / "store")
    with (
        pytest.raises(KeyboardInterrupt),
        StoreWriter(tmp_path / "store", small_description(), (2, 32)) as writer,
    ):
        fill_store(writer, small_description(), (2, 32), seed=9)
        raise KeyboardInterrupt
    assert snapshot(tmp_path / "store") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_an_incomplete_store_is_not_put_in_place(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    old = snapshot(tmp_path / "store")
    with (
        pytest.raises(FormatError, match="layer 0 has 1 slices"),
        StoreWriter(
            tmp_path / "store", replace(small_description(), geometry=small_geometry(layers=1)), (2,)
        ) as writer,
    ):
        writer.add_shard(ShardKey(0, 0, 2), payload(2))
        writer.finish()
    assert snapshot(tmp_path / "store") == old


KILLED = """
import sys, time
from pathlib import Path
from shard_store.writer import StoreWriter
from tests.stores import fill_store, small_description
with StoreWriter(Path(sys.argv[1]), small_description(), (2, 32)) as writer:
    fill_store(writer, small_description(), (2, 32), seed=9)
    print("filled", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_the_old_store(tmp_path: Path) -> None:
    write_store(tmp_path / "store")
    old = snapshot(tmp_path / "store")
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "store")], cwd=root, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"filled\n"
        os.kill(process.pid, signal.SIGKILL)
    assert snapshot(tmp_path / "store") == old
    with Store.open(tmp_path / "store") as store:
        store.verify()


def test_a_failed_rename_puts_the_old_store_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "store")
    old = snapshot(tmp_path / "store")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space left"):
        write_store(tmp_path / "store", seed=5)
    monkeypatch.undo()
    assert snapshot(tmp_path / "store") == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


def test_what_breaks_the_format_is_refused_when_added(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", small_description(), (2, 4)) as writer:
        with pytest.raises(FormatError, match="next of its bitwidth is layer 0, slice 0"):
            writer.add_shard(ShardKey(0, 1, 2), payload(2))
        with pytest.raises(FormatError, match="header says"):
            writer.add_shard(ShardKey(0, 0, 2), payload(4))
        with pytest.raises(FormatError, match="has 2, 4 bits"):
            writer.add_shard(ShardKey(0, 0, 8), payload(8))
        writer.add_resident("x", np.ones(4, np.float32))
        with pytest.raises(FormatError, match="added twice"):
            writer.add_resident("x", np.ones(4, np.float32))
        with pytest.raises(FormatError, match="finite float32"):
            writer.add_resident("y", np.full(4, np.nan, np.float32))
        rows = random_floats(np.random.default_rng(0), 4, GEOMETRY.hidden)
        writer.add_row_table("word", GEOMETRY.hidden, RowType.FLOAT32, [rows])
        with pytest.raises(FormatError, match="added twice"):
            writer.add_row_table("word", GEOMETRY.hidden, RowType.FLOAT32, [rows])
        template = small_template(GEOMETRY, TemplateKind.INT8, 2, 16)
        writer.add_template(template)
        with pytest.raises(FormatError, match="added twice"):
            writer.add_template(template)
        with pytest.raises(FormatError, match="this model needs"):
            writer.add_template(small_template(small_geometry(ffn_width=8), TemplateKind.INT8, 2, 16))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FormatError, match="bitwidth is 7"):
        StoreWriter(tmp_path / "store", small_description(), (7,))


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(FormatError, match="family is 'mamba', known are bert, distilbert, roberta"):
        small_description(family="mamba")


def test_the_next_writer_clears_up_after_killed_ones(tmp_path: Path) -> None:
    out = tmp_path / "store"
    write_store(out)
    before = (out / MANIFEST_FILE).read_bytes()
    out.rename(tmp_path / ".store.0123abcd.old")  # killed between the two renames
    for name in (".store.11111111.partial", ".store.22222222.partial"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".store.11111111.partial", (0, 0))
    with pytest.raises(RuntimeError), StoreWriter(out, small_description(), (2,)):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.22222222.partial", "store"]
    assert (out / MANIFEST_FILE).read_bytes() == before
