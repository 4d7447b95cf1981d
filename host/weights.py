"""Canonical weights: the same names and layout for every family, float32, matrices as [out, in]."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
TableArray: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix with its bias: y = x @ weight.T + bias."""

    weight: Float32Array  # (out, in)
    bias: Float32Array  # (out,)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Scale and shift after normalisation over the features; an RMSNorm has a shift of zeros."""

    gamma: Float32Array  # (hidden,)
    beta: Float32Array  # (hidden,)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer; the matrices are named as in Geometry.slice_matrices. Biases that a family lacks are zeros."""

    query: Linear  # (heads * head_width, hidden)
    key: Linear  # (kv_heads * head_width, hidden)
    value: Linear  # (kv_heads * head_width, hidden)
    output: Linear  # (hidden, heads * head_width)
    ffn_up: Linear  # (ffn, hidden)
    ffn_down: Linear  # (hidden, ffn)
    attention_norm: LayerNorm
    ffn_norm: LayerNorm
    ffn_gate: Linear | None = None  # (ffn, hidden)


@dataclass(frozen=True, slots=True)
class Tables:
    """Embedding tables, each float16 where that loses nothing, else float32."""

    word: TableArray  # (vocabulary, hidden)
    position: TableArray  # (positions, hidden)
    token_type: TableArray | None  # (types, hidden); None where the family has none


def smallest_table(values: Float32Array) -> TableArray:
    """A table as float16 where that loses nothing."""
    with np.errstate(over="ignore"):  # too large for float16: infinite, and so not equal
        halves = values.astype(np.float16)
    return halves if np.array_equal(halves, values) else values
