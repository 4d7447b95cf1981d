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
        rms: Floats = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
        return rms * tensors[f"{name}.gamma"]
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    scaled: Floats = centred / np.sqrt(variance + eps)
    return scaled * tensors[f"{name}.gamma"] + tensors[f"{name}.beta"]
