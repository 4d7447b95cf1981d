"""What XNNPACK keeps beside each row of its packed matrices: the sum of the weights, the scale and the bias."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from device_agent.packed_layout import Bytes, MatrixLayout
from shard_store.geometry import LATTICE_BITWIDTHS, Cut, Geometry
from shard_store.shard_layout import shard_layout

Int32s = npt.NDArray[np.int32]
Places = npt.NDArray[np.intp]


class PackedRows:
    """The numbers of all rows of a layer of `slices` slices, on their way from shards to the packed file.

    A shard has those of its own rows, and its part of the sums of rows that all slices share; scales and biases of the
    latter belong to the layer. Numbers go to their places together, once all shards are in.
    """

    def __init__(self, file: Bytes, layouts: Sequence[MatrixLayout], geometry: Geometry, slices: int) -> None:
        sections = shard_layout(geometry, LATTICE_BITWIDTHS[0])  # alike at all of them
        self._words = file[: file.size // 4 * 4].view("<i4")
        self._of_slices = np.zeros((slices, sections.numbers.nbytes // 4), np.int32)
        self._shared_names: list[str] = []
        moved: list[tuple[Places, Places]] = []  # from where among the numbers of slices, to where in the file
        sums: list[tuple[Places, MatrixLayout]] = []
        shared_sums: list[tuple[Places, MatrixLayout]] = []
        shared: list[Places] = []
        for index, (matrix, layout) in enumerate(zip(geometry.slice_matrices, layouts, strict=True)):
            rows = np.arange(matrix.rows)
            sum_words = sections.word(sections.sums) + sections.first_sums[index] + rows
            if matrix.cut is Cut.COLUMNS:
                shared_sums.append((sum_words, layout))
                self._shared_names += [f"{matrix.name}.scale", f"{matrix.name}.bias"]
                shared += [layout.places(layout.scales), layout.places(layout.biases)]
                continue
            sums.append((self._in_all_slices(sum_words), layout))
            for section, start in ((sections.scales, layout.scales), (sections.biases, layout.biases)):
                words = sections.word(section) + sections.first_rows[index] + rows
                moved.append((self._in_all_slices(words), layout.places(start)))
        self._sources, self._places = (np.concatenate(part) for part in zip(*moved, strict=True))
        self._own_sums = np.concatenate([words for words, _ in sums])
        self._shared_sums = np.concatenate([words for words, _ in shared_sums])
        summed = [layout for _, layout in (*sums, *shared_sums)]
        self._sum_places = np.concatenate([layout.places(layout.sums) for layout in summed])
        self._factors = _by_row(summed, [layout.sum_factor for layout in summed])
        self._offsets = _by_row(summed, [layout.sum_offset for layout in summed])
        self._shared_places = np.concatenate(shared)

    def _in_all_slices(self, words: Places) -> Places:
        """Places among the numbers of all slices, slice by slice, from those among the numbers of one."""
        slices, numbers = self._of_slices.shape
        return (numbers * np.arange(slices)[:, None] + words).reshape(-1)

    def put_shared(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Write scales and biases of rows that all slices share."""
        floats = self._words.view("<f4")
        floats[self._shared_places] = np.concatenate([tensors[name] for name in self._shared_names])

    def put(self, index: int, numbers: Int32s) -> None:
        """Take those of a slice's rows, as its shard has them (`ShardView.row_numbers`)."""
        self._of_slices[index] = numbers

    def finish(self) -> None:
        """Write what the slices brought."""
        numbers = self._of_slices.reshape(-1)
        self._words[self._places] = numbers[self._sources]
        shared_sums = self._of_slices[:, self._shared_sums].sum(axis=0, dtype=np.int32)
        sums = np.concatenate([numbers[self._own_sums], shared_sums])
        self._words[self._sum_places] = sums * self._factors + self._offsets


def _by_row(layouts: Sequence[MatrixLayout], values: Sequence[int]) -> Int32s:
    """A value of each matrix, repeated for its rows."""
    return np.repeat(np.array(values, np.int32), [layout.rows for layout in layouts])
