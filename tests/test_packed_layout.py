"""Layouts of packers that are simulated here, for shapes and orders that this machine's processor may not have."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.packed_layout import Bytes, Float32s, Int8s, MatrixLayout, PackedMatrix, learn_layout
from shard_store.errors import ExecutorError


@dataclass(frozen=True, slots=True)
class Packer:
    """Packs as XNNPACK's kernels do: tiles of sums, grouped weights, scales, biases."""

    tile: int
    group: int
    flip: bool = False
    sums_behind: bool = False
    factor: int = -1
    offset: int = 0
    repeats: bool = False  # the last real row in the rows that fill the last tile up, as kernels for AMX do

    def pack(self, levels: Int8s, scales: Float32s, biases: Float32s) -> Bytes:
        rows, columns = levels.shape
        padded = -rows % self.tile
        levels = np.pad(levels, ((0, padded), (0, 0)), "edge" if self.repeats else "constant")
        sums = (self.factor * levels.sum(axis=1, dtype=np.int32) + self.offset).astype("<i4")
        stored = levels.view(np.uint8) ^ np.uint8(0x80 if self.flip else 0)
        file = [b"\x07" * 132]
        for start in range(0, rows + padded, self.tile):
            part = slice(start, start + self.tile)
            grouped = stored[part].reshape(self.tile, columns // self.group, self.group).transpose(1, 0, 2).tobytes()
            head, tail = sums[part].tobytes(), b""
            file.append(grouped + head if self.sums_behind else head + grouped)
            for values in (scales, biases):
                tail += np.pad(values, (0, padded))[part].tobytes()
            file.append(tail)
        return np.frombuffer(b"".join(file) + b"end", np.uint8).copy()


Matrix = tuple[Int8s, Float32s, Float32s]


def random_matrix(seed: int, rows: int, columns: int) -> Matrix:
    generator = np.random.default_rng(seed)
    return (
        generator.integers(-128, 128, (rows, columns), np.int8),
        generator.random(rows, np.float32),
        generator.standard_normal(rows, np.float32),
    )


def put(file: Bytes, layout: MatrixLayout, values: Matrix) -> None:
    levels, *_ = values
    PackedMatrix(file, layout).block(0, layout.rows, 0, layout.columns).put(levels)
    put_rows(file, layout, values)


def put_rows(file: Bytes, layout: MatrixLayout, values: Matrix) -> None:
    levels, scales, biases = values
    words = file[: file.size // 4 * 4].view("<i4")
    words[layout.places(layout.sums)] = levels.sum(axis=1, dtype=np.int32) * layout.sum_factor + layout.sum_offset
    words[layout.places(layout.scales)] = scales.view("<i4")
    words[layout.places(layout.biases)] = biases.view("<i4")


def without_padding(file: Bytes, layout: MatrixLayout) -> Bytes:
    PackedMatrix(file, layout).clear_padding()
    return file


packers = st.builds(
    Packer, st.sampled_from([8, 16, 24, 64, 128]), st.sampled_from([1, 2, 4, 8, 16]), st.booleans(), st.booleans(),
    st.sampled_from([-1, 1, -128]), st.sampled_from([0, 12345]), st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(packers, st.integers(8, 200), st.integers(2, 12), st.integers(0, 2**32))
def test_a_learned_layout_reproduces_the_packer_on_other_weights(
    packer: Packer, rows: int, groups: int, seed: int
) -> None:
    columns = groups * packer.group
    first, second = random_matrix(seed, rows, columns), random_matrix(seed + 1, rows, columns)
    file = packer.pack(*first)
    layout = learn_layout(file, *first)
    assert (layout.tile, layout.group, layout.flip) == (packer.tile, packer.group, packer.flip)
    put(file, layout, second)
    expected = without_padding(packer.pack(*second), layout)
    np.testing.assert_array_equal(without_padding(file, layout), expected)


@settings(max_examples=60, deadline=None)
@given(packers, st.sampled_from([1, 3, 4, 16]), st.sampled_from([6, 32, 48, 64]), st.integers(0, 2**32))
def test_weights_can_be_put_slice_by_slice(packer: Packer, slices: int, width: int, seed: int) -> None:
    """Rows that break tiles, and columns."""
    rows, columns = max(8, slices * width), 3 * slices * packer.group
    first, second = random_matrix(seed, rows, columns), random_matrix(seed + 1, rows, columns)
    by_rows, by_columns = packer.pack(*first), packer.pack(*first)
    layout = learn_layout(by_rows, *first)
    put(by_rows, layout, second)
    put(by_columns, layout, second)
    levels = second[0]
    rows_first, columns_first = PackedMatrix(by_rows, layout), PackedMatrix(by_columns, layout)
    rows_first.clear()
    columns_first.clear()
    for row in range(0, rows, width):
        part = np.ascontiguousarray(levels[row : row + width])
        rows_first.block(row, len(part), 0, columns).put(part)
    for index in range(slices):
        part = np.ascontiguousarray(np.split(levels, slices, axis=1)[index])
        columns_first.block(0, rows, index * part.shape[1], part.shape[1]).put(part)
    for file in (by_rows, by_columns):
        put_rows(file, layout, second)
    expected = without_padding(packer.pack(*second), layout)
    np.testing.assert_array_equal(by_rows, expected)
    np.testing.assert_array_equal(by_columns, expected)


def test_a_block_must_not_break_groups() -> None:
    values = random_matrix(3, 40, 16)
    file = Packer(16, 4).pack(*values)
    matrix = PackedMatrix(file, learn_layout(file, *values))
    for first, columns in ((2, 8), (4, 6)):
        with pytest.raises(ExecutorError, match=r"packed layout: columns .* break groups"):
            matrix.block(0, 40, first, columns)


def test_numbers_of_rows_must_be_aligned() -> None:
    values = random_matrix(3, 40, 16)
    layout = learn_layout(Packer(16, 4).pack(*values), *values)
    with pytest.raises(ExecutorError, match="are not aligned"):
        layout.places(layout.sums + 2)
    with pytest.raises(ExecutorError, match="are not aligned"):
        replace(layout, stride=layout.stride + 1).places(layout.sums)


def test_clearing_leaves_what_is_not_the_matrix() -> None:
    values = random_matrix(3, 40, 16)
    file = Packer(16, 4).pack(*values)
    PackedMatrix(file, learn_layout(file, *values)).clear()
    assert file[:132].tolist() == [7] * 132
    assert file[-3:].tobytes() == b"end"
    assert not file[132:-3].any()


def test_only_rows_that_are_no_part_of_the_matrix_are_padding() -> None:
    values = random_matrix(8, 40, 16)
    file = Packer(16, 4, repeats=True).pack(*values)
    layout = learn_layout(file, *values)
    cleared = without_padding(file.copy(), layout)
    np.testing.assert_array_equal(cleared, without_padding(Packer(16, 4).pack(*values), layout))
    changed = np.flatnonzero(cleared != file)
    assert changed.size
    assert changed.min() >= layout.sums + 2 * layout.stride  # in the last of three tiles
    put(cleared, layout, values)
    np.testing.assert_array_equal(cleared, without_padding(file, layout))


def test_an_unknown_order_of_weights_is_refused() -> None:
    levels, scales, biases = random_matrix(4, 64, 64)
    file = Packer(16, 4).pack(np.ascontiguousarray(levels[:, ::-1]), scales, biases)
    with pytest.raises(ExecutorError, match="no known order of 64 x 64 weights"):
        learn_layout(file, levels, scales, biases)


@pytest.mark.parametrize("changed", ["scales", "biases"])
def test_a_packer_that_changes_scales_or_biases_is_refused(changed: str) -> None:
    levels, scales, biases = random_matrix(5, 64, 64)
    file = Packer(16, 4).pack(
        levels, scales * (2 if changed == "scales" else 1), biases * (2 if changed == "biases" else 1)
    )
    with pytest.raises(ExecutorError, match="scales or biases"):
        learn_layout(file, levels, scales, biases)


def test_sums_that_are_no_linear_function_of_the_weights_are_refused() -> None:
    values = random_matrix(6, 64, 64)
    file = Packer(16, 4).pack(*values)
    layout = learn_layout(file, *values)
    sums: npt.NDArray[np.int32] = file[layout.sums : layout.sums + 64].view("<i4")
    sums[3] += 1
    with pytest.raises(ExecutorError, match="no sums of rows"):
        learn_layout(file, *values)


@pytest.mark.parametrize("change", [{"stride": 1 << 30}, {"weights": 1 << 30}, {"biases": -400}, {"tile": 1 << 20}])
def test_a_layout_beyond_the_file_is_refused(change: dict[str, int]) -> None:
    values = random_matrix(7, 64, 64)
    file = Packer(16, 4).pack(*values)
    layout: MatrixLayout = replace(learn_layout(file, *values), **change)  # type: ignore[arg-type]
    with pytest.raises(ExecutorError, match="packed layout: "):
        PackedMatrix(file, layout)
