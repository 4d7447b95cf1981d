"""Time to decode one BERT-base layer (12 slices) into its six full matrices, one thread, best of many.

Run as `python -m benchmarks.decode`. GB/s counts the decoded weights: one byte each, four at 32 bits.
"""

import argparse
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.bitpack import CODE_PLANES
from shard_store.codec import QuantizedMatrix, ShardView, pack_shard
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, Activation, Cut, Geometry, SliceMatrix

BERT_BASE = Geometry(
    layers=12, hidden=768, heads=12, ffn=3072, slices=12, activation=Activation.GELU, norm_eps=1e-12,
)  # fmt: skip
OUTLIER_SHARE = 0.002  # as measured on fine-tuned encoders: 0.07 to 0.5 %


def _random_matrix(generator: np.random.Generator, shape: SliceMatrix, bitwidth: int) -> QuantizedMatrix:
    scales = np.ones(shape.rows, np.float32)
    size = (shape.rows, shape.columns)
    if bitwidth not in CODE_PLANES:
        return QuantizedMatrix.linear(generator.integers(-128, 128, size, np.int8), scales)
    positions = np.flatnonzero(generator.random(shape.size) < OUTLIER_SHARE).astype(np.uint32)
    return QuantizedMatrix(
        generator.integers(0, 1 << bitwidth, size, np.uint8),
        generator.integers(-128, 128, 1 << bitwidth, np.int8),
        positions,
        generator.integers(-128, 128, positions.size, np.int8),
        scales,
    )


def _payload(generator: np.random.Generator, bitwidth: int) -> bytes:
    shapes = BERT_BASE.slice_matrices
    biases = [np.zeros(shape.rows, np.float32) for shape in shapes if shape.cut is Cut.ROWS]
    if bitwidth == EXACT_BITWIDTH:
        exact = [generator.standard_normal((shape.rows, shape.columns), np.float32) for shape in shapes]
        return pack_shard(exact, biases, BERT_BASE, bitwidth)
    return pack_shard([_random_matrix(generator, shape, bitwidth) for shape in shapes], biases, BERT_BASE, bitwidth)


def _layer(bitwidth: int) -> list[npt.NDArray[Any]]:
    dtype: type = np.float32 if bitwidth == EXACT_BITWIDTH else np.int8
    slices = BERT_BASE.slices
    return [
        np.zeros((m.rows * slices, m.columns) if m.cut is Cut.ROWS else (m.rows, m.columns * slices), dtype)
        for m in BERT_BASE.slice_matrices
    ]


def best_ms(bitwidth: int, repeats: int) -> float:
    """Fewest milliseconds to validate and decode the twelve shards of a layer."""
    generator = np.random.default_rng(bitwidth)
    payloads = [memoryview(_payload(generator, bitwidth)) for _ in range(BERT_BASE.slices)]
    layer, decoder = _layer(bitwidth), Decoder(BERT_BASE)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for index, payload in enumerate(payloads):
            decoder.decode(ShardView(payload, BERT_BASE, bitwidth), slice_views(layer, BERT_BASE, index))
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def main() -> None:
    """Prints one row per bitwidth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    repeats = parser.parse_args().repeats
    weights = BERT_BASE.slices * sum(matrix.size for matrix in BERT_BASE.slice_matrices)
    print(f"{'bitwidth':>8} {'ms':>7} {'GB/s':>7}")
    for bitwidth in BITWIDTHS:
        milliseconds = best_ms(bitwidth, repeats)
        nbytes = weights * (4 if bitwidth == EXACT_BITWIDTH else 1)
        print(f"{bitwidth:8} {milliseconds:7.2f} {nbytes / milliseconds / 1e6:7.2f}")


if __name__ == "__main__":
    main()
