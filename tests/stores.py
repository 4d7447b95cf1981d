"""Small random shards and stores for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.bitpack import CODE_PLANES
from shard_store.codec import Float32s, QuantizedMatrix, pack_shard
from shard_store.geometry import EXACT_BITWIDTH, Activation, Cut, Geometry, ShardKey, SliceMatrix
from shard_store.head import Head, HeadActivation, HeadKind, HeadLayer, Pooling
from shard_store.manifest import Manifest, ModelDescription
from shard_store.manifest_checks import required_resident
from shard_store.row_table import RowType
from shard_store.span import align
from shard_store.template import Slot, Template, TemplateKind, slot_bytes
from shard_store.writer import StoreWriter

TABLE_ROWS = {"word": 50, "position": 48, "token_type": 3}


def small_geometry(
    layers: int = 2, head_width: int = 32, heads: int = 4, slices: int = 4, ffn_width: int = 40
) -> Geometry:
    return Geometry(
        layers=layers, hidden=head_width * heads, heads=heads, ffn=slices * ffn_width, slices=slices,
        activation=Activation.GELU, norm_eps=1e-12,
    )  # fmt: skip


def random_floats(generator: np.random.Generator, *shape: int) -> Float32s:
    return generator.standard_normal(shape, dtype=np.float32)


def random_matrix(generator: np.random.Generator, shape: SliceMatrix, bitwidth: int, outliers: int) -> QuantizedMatrix:
    scales = random_floats(generator, shape.rows)
    if bitwidth not in CODE_PLANES:
        return QuantizedMatrix.linear(generator.integers(-128, 128, (shape.rows, shape.columns), np.int8), scales)
    return QuantizedMatrix(
        codes=generator.integers(0, 1 << bitwidth, (shape.rows, shape.columns), np.uint8),
        codebook=generator.integers(-128, 128, 1 << bitwidth, np.int8),
        outlier_positions=np.sort(generator.choice(shape.size, min(outliers, shape.size), replace=False)).astype(
            np.uint32
        ),
        outlier_levels=generator.integers(-128, 128, min(outliers, shape.size), np.int8),
        scales=scales,
    )


def random_matrices(
    generator: np.random.Generator, geometry: Geometry, bitwidth: int, outliers: int = 3
) -> list[QuantizedMatrix | Float32s]:
    if bitwidth == EXACT_BITWIDTH:
        return [random_floats(generator, shape.rows, shape.columns) for shape in geometry.slice_matrices]
    return [random_matrix(generator, shape, bitwidth, outliers) for shape in geometry.slice_matrices]


def random_biases(generator: np.random.Generator, geometry: Geometry) -> list[Float32s]:
    return [random_floats(generator, shape.rows) for shape in geometry.slice_matrices if shape.cut is Cut.ROWS]


def expected_weights(matrix: QuantizedMatrix | Float32s) -> npt.NDArray[Any]:
    return matrix.levels() if isinstance(matrix, QuantizedMatrix) else matrix


def empty_layer(geometry: Geometry, bitwidth: int, slices: int) -> list[npt.NDArray[Any]]:
    dtype: type = np.float32 if bitwidth == EXACT_BITWIDTH else np.int8
    shapes: Sequence[tuple[int, int]] = [
        (shape.rows * slices, shape.columns) if shape.cut is Cut.ROWS else (shape.rows, shape.columns * slices)
        for shape in geometry.slice_matrices
    ]
    return [np.zeros(shape, dtype) for shape in shapes]


def small_description(family: str = "bert", geometry: Geometry | None = None) -> ModelDescription:
    return ModelDescription(
        model="tests/small",
        family=family,
        geometry=geometry or small_geometry(),
        head=Head(
            kind=HeadKind.SEQUENCE_CLASSIFICATION,
            pooling=Pooling.CLS,
            normalize=False,
            labels=("bad", "good", "schön"),
            layers=(
                HeadLayer("head.0.weight", "head.0.bias", HeadActivation.TANH),
                HeadLayer("head.1.weight", "head.1.bias", HeadActivation.NONE),
            ),
        ),
        max_tokens=40,
        sequences=(16, 32),
    )


def small_template(geometry: Geometry, kind: TemplateKind, slices: int, sequence: int) -> Template:
    flatbuffer = bytes(range(256)) * 4
    slots: dict[str, Slot] = {}
    end = len(flatbuffer)
    for name, nbytes in slot_bytes(geometry, kind, slices).items():
        slots[name] = Slot(end, nbytes)
        end += align(nbytes, 64)
    return Template(kind, slices, sequence, flatbuffer, end, slots)


def fill_store(writer: StoreWriter, description: ModelDescription, bitwidths: Sequence[int], seed: int = 0) -> None:
    generator = np.random.default_rng(seed)
    geometry = description.geometry
    for layer in range(geometry.layers):
        for index in range(geometry.slices):
            for bitwidth in bitwidths:
                matrices = random_matrices(generator, geometry, bitwidth, outliers=int(generator.integers(0, 6)))
                payload = pack_shard(matrices, random_biases(generator, geometry), geometry, bitwidth)
                writer.add_shard(ShardKey(layer, index, bitwidth), payload)
    shapes = required_resident(geometry, has_lattice=any(bitwidth != EXACT_BITWIDTH for bitwidth in bitwidths))
    outputs = len(description.head.labels)
    shapes |= {"head.0.weight": (24, geometry.hidden), "head.0.bias": (24,)}
    shapes |= {"head.1.weight": (outputs, 24), "head.1.bias": (outputs,)}
    for name, shape in shapes.items():
        writer.add_resident(name, random_floats(generator, *shape))
    for table, rows in TABLE_ROWS.items():
        if table != "token_type" or description.family != "distilbert":
            values = random_floats(generator, rows, geometry.hidden).astype(np.float16)
            row_type = RowType.FLOAT32 if table == "position" else RowType.FLOAT16
            writer.add_row_table(table, geometry.hidden, row_type, np.array_split(values, 3))
    for kind in TemplateKind:
        for slices in (1, geometry.slices):
            for sequence in description.sequences:
                writer.add_template(small_template(geometry, kind, slices, sequence))
    writer.add_tokenizer(b'{"version": "1.0"}')


def write_store(path: Path, bitwidths: Sequence[int] = (2, 32), seed: int = 0) -> Manifest:
    description = small_description()
    with StoreWriter(path, description, bitwidths) as writer:
        fill_store(writer, description, bitwidths, seed)
        return writer.finish()
