"""What is said of a store."""

from pathlib import Path

import pytest

from host.store_summary import summarize
from shard_store.errors import FormatError
from tests.stores import TABLE_ROWS, write_store


def test_the_sizes_are_those_of_the_files(tmp_path: Path) -> None:
    manifest = write_store(tmp_path / "store", bitwidths=(2, 32))
    summary = summarize(tmp_path / "store")
    for file in summary.files:
        assert (tmp_path / "store" / file.name).stat().st_size == file.nbytes
    assert summary.total_bytes == sum(file.nbytes for file in summary.files)
    assert (summary.model, summary.geometry) == ("tests/small", manifest.geometry)
    assert {table.name: table.rows for table in summary.tables} == TABLE_ROWS
    two, exact = summary.bitwidths
    assert (two.bits, two.shards, exact.bits) == (2, 8, 32)
    assert two.largest_layer_bytes <= two.nbytes <= manifest.files["shards-2.bin"].nbytes
    assert exact.nbytes > 10 * two.nbytes
    assert [(kind.kind, kind.slices, kind.sequences) for kind in summary.templates] == [
        ("float32", (1, 4), (16, 32)),
        ("int8", (1, 4), (16, 32)),
    ]
    assert summary.resident_bytes < manifest.files["resident.bin"].nbytes


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError):
        summarize(tmp_path)
