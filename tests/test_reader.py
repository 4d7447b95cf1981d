import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shard_store.codec import ShardView
from shard_store.decoder import Decoder, slice_views
from shard_store.errors import ChecksumError, DeviceError, FormatError, PlanError
from shard_store.geometry import ShardKey
from shard_store.reader import ShardReader, Store, aligned_buffer
from shard_store.template import TemplateKind
from tests.stores import TABLE_ROWS, empty_layer, small_geometry, small_template, write_store

GEOMETRY = small_geometry()
BITWIDTHS = (2, 3, 32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "store"
    write_store(path, BITWIDTHS)
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "store"))


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)


def all_keys(store: Store) -> list[ShardKey]:
    return [
        ShardKey(layer, index, bitwidth)
        for bitwidth in store.manifest.bitwidths
        for layer in range(GEOMETRY.layers)
        for index in range(GEOMETRY.slices)
    ]


def read_one_by_one(store: Store) -> None:
    """Reads every part as the agent does."""
    store.resident()
    store.tokenizer_bytes()
    for template in store.manifest.templates:
        store.template(template.kind, template.slices, template.sequence)
    for table, layout in store.manifest.row_tables.items():
        store.rows(table, range(layout.rows))
    with ShardReader(store) as reader:
        for key in all_keys(store):
            reader.read([key], aligned_buffer(reader.buffer_bytes([key])))


def test_everything_comes_back(original: Path) -> None:
    with Store.open(original) as store:
        read_one_by_one(store)
        assert store.tokenizer_bytes() == b'{"version": "1.0"}'
        assert store.template(TemplateKind.INT8, 4, 32) == small_template(GEOMETRY, TemplateKind.INT8, 4, 32)
        resident = store.resident()
        assert resident["layer.1.output.bias"].shape == (GEOMETRY.hidden,)
        assert not resident["layer.1.output.bias"].flags.writeable
        with pytest.raises(PlanError, match="no float32 template of 3 slices"):
            store.template(TemplateKind.FLOAT32, 3, 32)


def test_rows_come_in_the_order_asked(original: Path) -> None:
    with Store.open(original) as store:
        everything = {table: store.rows(table, range(rows)) for table, rows in TABLE_ROWS.items()}
        for indices in ([], [7], [3, 4, 5, 4, 3, 3, 49, 0], np.arange(5, 20)):
            np.testing.assert_array_equal(store.rows("word", indices), everything["word"][np.asarray(indices, int)])
        assert everything["position"].dtype == np.float32
        for bad in ([50], [-1], [0, 1 << 40]):
            with pytest.raises(FormatError, match="asked of table word, which has 50"):
                store.rows("word", bad)
        with pytest.raises(FormatError, match="no table words"):
            store.rows("words", [0])


def test_a_row_is_verified_when_it_is_first_read(copy: Path) -> None:
    with Store.open(copy) as store:
        table = store.manifest.row_tables["word"]
        before = store.rows("word", [3])
        flip(copy / "embeddings.bin", table.offset + 3 * table.stride)
        flip(copy / "embeddings.bin", table.offset + 4 * table.stride)
        assert store.rows("word", [3]).tolist() != before.tolist()
        for indices in ([4], [3, 4], [5, 4]):
            with pytest.raises(ChecksumError, match="row 4 of table word"):
                store.rows("word", indices)
        store.rows("word", [5])
        with pytest.raises(ChecksumError, match="row 3 of table word"):
            store.verify()


@pytest.mark.parametrize("direct", [None, False])
def test_shards_come_in_the_order_asked(original: Path, direct: bool | None) -> None:
    with Store.open(original) as store, ShardReader(store, direct=direct) as reader:
        stored_order = all_keys(store)
        keys = [stored_order[index] for index in np.random.default_rng(0).permutation(len(stored_order))]
        buffer = aligned_buffer(reader.buffer_bytes(keys))
        for key, payload in zip(keys, reader.read(keys, buffer), strict=True):
            span = store.manifest.shard_span(key)
            stored = (original / f"shards-{key.bitwidth}.bin").read_bytes()
            assert payload == stored[span.offset : span.end]
            layer = empty_layer(GEOMETRY, key.bitwidth, 1)
            Decoder(GEOMETRY).decode(ShardView(payload, GEOMETRY, key.bitwidth), slice_views(layer, GEOMETRY, 0))


def test_neighbours_are_read_in_one_call(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        calls.append((offset, buffers[0].nbytes))
        return preadv(descriptor, buffers, offset)

    with Store.open(original) as store, ShardReader(store) as reader:
        keys = [ShardKey(1, index, 3) for index in range(GEOMETRY.slices)]
        buffer = aligned_buffer(reader.buffer_bytes(keys))
        monkeypatch.setattr(os, "preadv", counted)
        reader.read(keys, buffer)
        assert calls == [(store.manifest.shard_span(keys[0]).offset, reader.buffer_bytes(keys))]
        reader.read([keys[0], keys[2]], buffer)
        assert len(calls) == 3
        with pytest.raises(ValueError, match="4 shards need"):
            reader.read(keys, buffer[:4096])


def test_short_reads_are_completed(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv

    def short(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][: min(1000, buffers[0].nbytes)]], offset)

    monkeypatch.setattr(os, "preadv", short)
    with Store.open(original) as store, ShardReader(store, direct=False) as reader:
        keys = all_keys(store)[:6]
        assert len(reader.read(keys, aligned_buffer(reader.buffer_bytes(keys)))) == 6


def refuse_direct_open(monkeypatch: pytest.MonkeyPatch) -> None:
    plain_open = os.open

    def refusing(path: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return plain_open(path, flags)

    monkeypatch.setattr(os, "open", refusing)


def refuse_direct_read(monkeypatch: pytest.MonkeyPatch) -> None:
    preadv, plain_open = os.preadv, os.open
    direct: set[int] = set()

    def noting(path: Path, flags: int) -> int:
        descriptor = plain_open(path, flags)
        (direct.add if flags & os.O_DIRECT else direct.discard)(descriptor)
        return descriptor

    def refusing(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if descriptor in direct:
            raise OSError(errno.EINVAL, "Invalid argument")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "open", noting)
    monkeypatch.setattr(os, "preadv", refusing)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no direct reads")
@pytest.mark.parametrize("refuse", [refuse_direct_open, refuse_direct_read])
def test_direct_reads_fall_back(
    original: Path, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[pytest.MonkeyPatch], None]
) -> None:
    refuse(monkeypatch)
    with Store.open(original) as store:
        with ShardReader(store) as reader:
            keys = all_keys(store)
            reader.read(keys, aligned_buffer(reader.buffer_bytes(keys)))
            assert not reader.direct
        with pytest.raises(DeviceError, match="refuses direct reads"), ShardReader(store, direct=True) as reader:
            reader.read(keys, aligned_buffer(reader.buffer_bytes(keys)))


def test_throttle_is_charged_for_what_is_read(original: Path) -> None:
    sleeps: list[float] = []
    with Store.open(original) as store:
        with ShardReader(store, throttle_bytes_per_s=1e6, clock=lambda: 0.0, sleep=sleeps.append) as reader:
            key = ShardKey(0, 0, 32)
            nbytes = reader.buffer_bytes([key])
            for _ in range(2):
                reader.read([key], aligned_buffer(nbytes))
        assert sleeps == pytest.approx([nbytes / 1e6, 2 * nbytes / 1e6])


def test_agents_share_a_reader(original: Path) -> None:
    with Store.open(original) as store, ShardReader(store) as reader:
        keys = all_keys(store)
        expected = [bytes(part) for part in reader.read(keys, aligned_buffer(reader.buffer_bytes(keys)))]
        wrong: list[ShardKey] = []

        def work(seed: int) -> None:
            order = np.random.default_rng(seed).permutation(len(keys))
            for position in order:
                key = keys[position]
                if reader.read([key], aligned_buffer(reader.buffer_bytes([key])))[0] != expected[position]:
                    wrong.append(key)

        agents = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join()
        assert not wrong


def test_a_damaged_shard_is_named(copy: Path) -> None:
    with Store.open(copy) as store:
        key = ShardKey(1, 2, 3)
        span = store.manifest.shard_span(key)
        flip(copy / "shards-3.bin", span.end - 1)
        with ShardReader(store) as reader:
            other = ShardKey(1, 1, 3)
            reader.read([other], aligned_buffer(reader.buffer_bytes([other])))
            for _ in range(2):
                with pytest.raises(ChecksumError, match=r"shards-3\.bin: layer 1, slice 2, 3 bits: checksum"):
                    reader.read([key], aligned_buffer(reader.buffer_bytes([key])))
        with pytest.raises(ChecksumError, match=r"shards-3\.bin: layer 1, slice 2, 3 bits: checksum"):
            store.verify()


def test_a_flipped_byte_is_found_on_first_use(copy: Path) -> None:
    """In every part of every file that holds data, by the reads that the agent does."""
    with Store.open(copy) as store:
        manifest = store.manifest
    places = [("tokenizer.json", 3), ("manifest.json", 200)]
    places += [("resident.bin", tensor.span.offset) for tensor in manifest.resident.values()]
    places += [("templates.bin", span.end - 1) for span in manifest.templates.values()]
    for table in manifest.row_tables.values():
        places += [("embeddings.bin", table.offset), ("embeddings.bin", table.offset + table.row_bytes)]
    places += [(f"shards-{bits}.bin", layers[1][2].offset) for bits, layers in manifest.shards.items()]
    for name, place in places:
        flip(copy / name, place)
        with pytest.raises(ChecksumError, match=name), Store.open(copy) as store:
            read_one_by_one(store)
        flip(copy / name, place)
    with Store.open(copy) as store:
        read_one_by_one(store)


def test_verify_finds_a_flipped_byte_anywhere(copy: Path) -> None:
    generator = np.random.default_rng(0)
    for path in sorted(copy.iterdir()):
        for place in (0, path.stat().st_size - 1, *generator.integers(0, path.stat().st_size, 3).tolist()):
            flip(path, place)
            with pytest.raises(FormatError), Store.open(copy) as store:
                store.verify()
            flip(path, place)
    steps: list[tuple[str, int, int]] = []
    with Store.open(copy) as store:
        store.verify(lambda name, done, total: steps.append((name, done, total)))
        assert [name for name, _, _ in steps] == list(store.manifest.files)
    assert (
        steps[-1][1]
        == steps[-1][2]
        == sum(path.stat().st_size for path in copy.iterdir() if path.suffix == ".bin") + 18
    )


def test_truncated_and_missing_files_are_named_with_sizes(copy: Path) -> None:
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        match = (
            "manifest"
            if path.name == "manifest.json"
            else f"{path.name}: has {len(data) - 1} bytes, expected {len(data)}"
        )
        with pytest.raises(FormatError, match=match):
            Store.open(copy)
        path.unlink()
        with pytest.raises(FormatError, match=rf"{path.name}: cannot be read"):
            Store.open(copy)
        path.mkdir()
        with pytest.raises(FormatError, match=rf"{path.name}: is not a regular file"):
            Store.open(copy)
        path.rmdir()
        path.write_bytes(data)
    with pytest.raises(FormatError, match="cannot be read"):
        Store.open(copy / "elsewhere")


def test_a_file_truncated_while_open_is_found(copy: Path) -> None:
    with Store.open(copy) as store, ShardReader(store) as reader:
        os.truncate(copy / "shards-2.bin", 4096)
        keys = [ShardKey(0, index, 2) for index in range(GEOMETRY.slices)]
        with pytest.raises(FormatError, match="ends at 4096 bytes"):
            reader.read(keys, aligned_buffer(reader.buffer_bytes(keys)))


def test_dropping_the_page_cache_changes_no_data(original: Path) -> None:
    with Store.open(original) as store:
        before = store.rows("word", [1, 2])
        store.drop_page_cache()
        np.testing.assert_array_equal(store.rows("word", [1, 2]), before)
