import numpy as np
import pytest

from shard_store.errors import ChecksumError, FormatError
from shard_store.row_table import RowTable, RowType


@pytest.mark.parametrize("row_type", RowType)
@pytest.mark.parametrize("columns", [8, 96, 384])
def test_rows_come_back(row_type: RowType, columns: int) -> None:
    values = np.random.default_rng(columns).standard_normal((5, columns)).astype(np.float16)
    table = RowTable(0, 5, columns, row_type)
    stored = table.encode(values)
    assert len(stored) == table.nbytes
    assert table.stride % 16 == 0
    assert table.stride - 16 < table.row_bytes + 4 <= table.stride
    records = np.frombuffer(stored, np.uint8).reshape(5, -1)
    table.check(records, np.arange(5), "word")
    decoded = table.decode(records)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, values.astype(np.float32))


def test_any_flipped_bit_of_a_row_is_found() -> None:
    table = RowTable(0, 1, 8, RowType.FLOAT16)
    stored = table.encode(np.ones((1, 8), np.float16))
    for place in range(table.row_bytes + 4):
        records = np.frombuffer(stored, np.uint8).reshape(1, -1).copy()
        records[0, place] ^= 1
        with pytest.raises(ChecksumError, match="row 7 of table word"):
            table.check(records, np.array([7]), "word")


def test_rows_that_cannot_be_stored_are_refused() -> None:
    table = RowTable(0, 2, 8, RowType.FLOAT16)
    with pytest.raises(FormatError, match=r"shape \(2, 9\)"):
        table.encode(np.ones((2, 9), np.float16))
    with pytest.raises(FormatError, match="not finite as float16"):
        table.encode(np.full((2, 8), 1e6, np.float32))
