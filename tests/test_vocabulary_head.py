"""head.bin: blocks that cover the vocabulary, and a reader that streams or keeps them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device_agent.vocabulary import VocabularyReader
from shard_store import vocabulary_head
from shard_store.errors import ChecksumError, FormatError, PlanError
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.reader import ShardReader, Store
from shard_store.span import Span
from shard_store.store_files import HEAD_FILE
from shard_store.vocabulary_head import VocabularyHead, block_bytes, check_vocabulary_head, pack_block, unpack_block
from tests.decoders import GPT2, HIDDEN, VOCABULARY, write_decoder
from tests.packaging import package_quietly

ROWS = np.random.default_rng(0).standard_normal((10, 24), dtype=np.float32)


def test_a_block_comes_back() -> None:
    exact, ones = unpack_block(memoryview(pack_block(ROWS, 32)), 10, 24, 32)
    np.testing.assert_array_equal(exact, ROWS)
    np.testing.assert_array_equal(ones, np.ones(10))
    block = pack_block(ROWS, 8)
    assert len(block) == block_bytes(10, 24, 8) == 64 + 240
    levels, scales = unpack_block(memoryview(block), 10, 24, 8)
    assert np.abs(levels.astype(np.float32) * scales[:, None] - ROWS).max() <= scales.max() / 2 + 1e-6


def test_broken_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="a block of 959 bytes, 10 rows need other"):
        unpack_block(memoryview(pack_block(ROWS, 32))[1:], 10, 24, 32)
    block = bytearray(pack_block(ROWS, 8))
    block[:4] = np.float32(np.nan).tobytes()
    with pytest.raises(FormatError, match="scales that are not finite"):
        unpack_block(memoryview(block), 10, 24, 8)
    with pytest.raises(FormatError, match="weights that are not finite"):
        pack_block(ROWS * np.float32(np.inf), 8)


HEAD = VocabularyHead(10, {32: 4}, {32: (Span(0, 384, 1), Span(4096, 384, 2), Span(8192, 192, 3))})


def test_blocks_must_cover_the_vocabulary() -> None:
    check_vocabulary_head(HEAD, 24, 3 * 4096)
    for broken, file_bytes, message in (
        (HEAD, 4096, "4096 bytes, the blocks need 12288"),
        (replace(HEAD, rows=13), 12288, "3 blocks of 4 rows at 32 bits, for 13 rows"),
        (replace(HEAD, block_rows={32: 0}), 12288, "3 blocks of 0 rows"),
        (replace(HEAD, blocks={}, block_rows={}), 0, "10 rows at 0 bitwidths"),
        (replace(HEAD, blocks={32: (*HEAD.blocks[32][:2], Span(8192, 193, 3))}), 12288, "block 2 at 32 bits is not"),
    ):
        with pytest.raises(FormatError, match=message):
            check_vocabulary_head(broken, 24, file_bytes)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With blocks of a few rows each."""
    folder = tmp_path_factory.mktemp("head")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary_head, "BLOCK_BYTES", 512)
        return package_quietly(
            write_decoder(folder / "model", GPT2), folder / "store", sequences=(1,), bitwidths=(8, 32), slices=1
        )


@pytest.mark.parametrize("bits", [8, 32])
def test_streamed_and_kept_blocks_give_the_same_logits(store: Path, bits: int) -> None:
    hidden = np.random.default_rng(1).standard_normal((3, HIDDEN), dtype=np.float32)
    with Store.open(store) as opened, ShardReader(opened) as shards:
        weight = opened.rows("word", range(VOCABULARY))
        reader = VocabularyReader(opened, shards)
        streamed = reader.logits(hidden, bits)
        np.testing.assert_allclose(streamed, hidden @ weight.T, atol=1e-4 if bits == 32 else 0.1)
        for limit in (0, 1500, 1 << 20, 600):
            reader.keep(bits, limit)
            assert reader.kept_bytes <= limit
            assert (reader.kept_bytes > 0) == (limit > 0)
            np.testing.assert_array_equal(reader.logits(hidden, bits), streamed)
        with pytest.raises(PlanError, match="no head at 4 bits"):
            reader.logits(hidden, 4)
        reader.close()


def test_a_damaged_block_is_found_on_its_first_read(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    copy.mkdir()
    for file in store.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = bytearray((copy / HEAD_FILE).read_bytes())
    data[4096 + 100] ^= 1
    (copy / HEAD_FILE).write_bytes(data)
    with Store.open(copy) as opened, ShardReader(opened) as shards:
        reader = VocabularyReader(opened, shards)
        with pytest.raises(ChecksumError, match=r"head\.bin: block 1, 8 bits"):
            reader.logits(np.ones((1, HIDDEN), np.float32), 8)
        reader.close()
        with pytest.raises(ChecksumError, match=r"head\.bin: block 1, 8 bits"):
            opened.verify()


def test_the_manifest_of_a_language_model_comes_back(store: Path) -> None:
    with Store.open(store) as opened:
        manifest = opened.manifest
        assert parse_manifest(dump_manifest(manifest)) == manifest
        generation = manifest.description.generation
    assert generation is not None
    assert (generation.end_tokens, generation.end_text) == ((1,), "w1")
    assert "message" in generation.chat_template
    with pytest.raises(FormatError, match="vocabulary_head belongs to language models"):
        replace(manifest, vocabulary_head=None)
    with pytest.raises(FormatError, match="must come together"):
        replace(manifest.description, generation=None)
