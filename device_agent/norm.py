"""LayerNorm and RMSNorm of hidden states outside the layers: behind the embeddings, or behind the last layer."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shard_store.geometry import Geometry
from shard_store.layer_spec import NormKind

Floats = npt.NDArray[np.float32]


def apply_norm(x: Floats, name: str, tensors: Mapping[str, Floats], geometry: Geometry) -> Floats:
    """Normalise over the last axis with the model's kind of norm; name: "embedding_norm" or "final_norm"."""
    eps = np.float32(geometry.norm_eps)
    if geometry.spec.norm_kind is NormKind.RMS:
        rms: Floats = x / np.sqrt(_mean(x * x) + eps)
        return rms * tensors[f"{name}.gamma"]
    scaled = x - _mean(x)
    scaled /= np.sqrt(_mean(scaled * scaled) + eps)
    scaled *= tensors[f"{name}.gamma"]
    scaled += tensors[f"{name}.beta"]
    return scaled


def _mean(x: Floats) -> Floats:
    """Over the last axis, which stays: what np.mean does, without its many lines of Python."""
    total: Floats = np.add.reduce(x, axis=-1, keepdims=True)
    return total / np.float32(x.shape[-1])
