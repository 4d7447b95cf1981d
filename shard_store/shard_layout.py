"""Where the sections of one shard's payload lie (docs/format.md, "Shard payload")."""

from dataclasses import dataclass
from functools import lru_cache

from shard_store.bitpack import CODE_PLANES
from shard_store.errors import FormatError
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, Cut, Geometry, SliceMatrix
from shard_store.span import align

SHARD_ALIGNMENT = 64
HEADER_BYTES = 16
MAX_SHARD_WEIGHTS = 1 << 28


@dataclass(frozen=True, slots=True)
class Section:
    """A range of bytes of the payload."""

    offset: int
    nbytes: int

    @property
    def end(self) -> int:
        """Offset of the first byte behind the section."""
        return self.offset + self.nbytes


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """Sections of a payload, all but the outliers, which come last and whose number the header gives.

    first_rows: where each matrix's rows start among those of all row-cut matrices (-1 for column-cut ones); first_sums:
    among those of all matrices; first_weights: where each matrix starts when the six are counted as one flat array.
    """

    bitwidth: int
    matrices: tuple[SliceMatrix, ...]
    first_rows: tuple[int, ...]
    first_sums: tuple[int, ...]
    first_weights: tuple[int, ...]
    biases: Section
    scales: Section
    sums: Section
    codebooks: Section
    weights: tuple[Section, ...]
    outliers: int

    @property
    def size(self) -> int:
        """Number of weights of the shard."""
        return self.first_weights[-1] + self.matrices[-1].size

    @property
    def has_outliers(self) -> bool:
        """Whether this bitwidth stores outliers apart."""
        return self.codebooks.nbytes > 0

    @property
    def numbers(self) -> Section:
        """Biases, scales and sums of rows, one behind the other; at 2 to 8 bits alike."""
        return Section(self.biases.offset, self.sums.end - self.biases.offset)

    def word(self, section: Section) -> int:
        """Where one of these sections begins among `numbers`, in 4-byte words."""
        return (section.offset - self.biases.offset) // 4

    def payload_bytes(self, outliers: int) -> int:
        """Length of a payload with this many outliers."""
        return self.outliers + 5 * outliers if outliers else self.weights[-1].end


def matrix_bytes(matrix: SliceMatrix, bitwidth: int) -> int:
    """Bytes of one slice matrix's weights, without scales, codebook and outliers."""
    return matrix.size * bitwidth // 8


@lru_cache(maxsize=64)
def shard_layout(geometry: Geometry, bitwidth: int) -> ShardLayout:
    """The layout of every shard of this geometry and bitwidth. Raises FormatError for sizes beyond the limits."""
    if bitwidth not in BITWIDTHS:
        raise FormatError(f"shard: bitwidth is {bitwidth}, must be one of {BITWIDTHS}")
    matrices = geometry.slice_matrices
    first_rows, first_sums, first_weights = [], [], []
    rows = sums = size = 0
    for matrix in matrices:
        first_sums.append(sums)
        sums += matrix.rows
        first_rows.append(rows if matrix.cut is Cut.ROWS else -1)
        first_weights.append(size)
        rows += matrix.rows if matrix.cut is Cut.ROWS else 0
        size += matrix.size
    if size > MAX_SHARD_WEIGHTS:
        raise FormatError(f"shard: {size} weights per slice, the format allows {MAX_SHARD_WEIGHTS}; use more slices")
    biases = Section(align(HEADER_BYTES, SHARD_ALIGNMENT), 4 * rows)
    scales = Section(align(biases.end, SHARD_ALIGNMENT), 0 if bitwidth == EXACT_BITWIDTH else 4 * rows)
    row_sums = Section(align(scales.end, SHARD_ALIGNMENT), 0 if bitwidth == EXACT_BITWIDTH else 4 * sums)
    codebook_bytes = CODE_PLANES[bitwidth].levels if bitwidth in CODE_PLANES else 0
    codebooks = Section(align(row_sums.end, SHARD_ALIGNMENT), len(matrices) * codebook_bytes)
    weights: list[Section] = []
    end = codebooks.end
    for matrix in matrices:
        weights.append(Section(align(end, SHARD_ALIGNMENT), matrix_bytes(matrix, bitwidth)))
        end = weights[-1].end
    return ShardLayout(
        bitwidth, matrices, tuple(first_rows), tuple(first_sums), tuple(first_weights),
        biases, scales, row_sums, codebooks, tuple(weights),
        outliers=align(end, SHARD_ALIGNMENT),
    )  # fmt: skip
