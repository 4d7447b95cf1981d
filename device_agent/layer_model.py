"""One layer's .tflite bytes in memory, filled in from shards."""

import mmap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shard_store.codec import ShardView
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import Cut, Geometry
from shard_store.template import Template, TemplateKind

LAYER_TENSORS = (
    "output.bias", "ffn_down.bias",
    "attention_norm.gamma", "attention_norm.beta", "ffn_norm.gamma", "ffn_norm.beta",
)  # fmt: skip
SHARED_SCALES = ("output.scale", "ffn_down.scale")


class LayerModel:
    """A private anonymous mapping: the template's flatbuffer, then the region of the six matrices."""

    def __init__(self, template: Template, geometry: Geometry) -> None:
        self._template = template
        self._geometry = geometry
        # Private: pages of a shared anonymous mapping would outlive MADV_DONTNEED.
        self._map = mmap.mmap(-1, template.model_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._advise("MADV_HUGEPAGE")  # a quarter of the time of filling went into page faults
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._bytes[: len(template.flatbuffer)] = np.frombuffer(template.flatbuffer, np.uint8)
        self._matrices = self._view_matrices()

    @property
    def address(self) -> int:
        """Where the model starts."""
        return int(self._bytes.ctypes.data)

    @property
    def nbytes(self) -> int:
        """Length of the model."""
        return self._template.model_bytes

    def fill_layer(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Put in what belongs to the layer as a whole: output biases, norms and the shared row scales."""
        shared = SHARED_SCALES if self._template.kind is TemplateKind.INT8 else ()
        for name in (*LAYER_TENSORS, *shared):
            self._floats(name)[:] = tensors[name]

    def fill_slice(self, index: int, shard: ShardView, decoder: Decoder) -> None:
        """Decode a shard into its rows and columns of the six matrices, and put in its biases and scales."""
        decoder.decode(shard, slice_views(self._matrices, self._geometry, index))
        for number, matrix in enumerate(self._geometry.slice_matrices):
            if matrix.cut is Cut.ROWS:
                rows = slice(index * matrix.rows, (index + 1) * matrix.rows)
                self._floats(f"{matrix.name}.bias")[rows] = shard.bias(number)
                if self._template.kind is TemplateKind.INT8:
                    self._floats(f"{matrix.name}.scale")[rows] = shard.scales(number)

    def drop_weights(self) -> None:
        """Give the pages of the six matrices back to the system, once the runtime has packed them."""
        self._advise("MADV_DONTNEED")

    def _advise(self, advice: str) -> None:
        if hasattr(mmap, advice):  # macOS knows fewer
            start = min(self._template.slots[f"{matrix.name}.weight"].offset for matrix in self._geometry.slice_matrices)
            self._map.madvise(getattr(mmap, advice), start, self._template.model_bytes - start)

    def close(self) -> None:
        """Unmap. All views of the model die with it."""
        self._matrices = ()
        self._bytes = np.empty(0, np.uint8)
        self._map.close()

    def _view_matrices(self) -> Sequence[npt.NDArray[Any]]:
        dtype = np.int8 if self._template.kind is TemplateKind.INT8 else np.float32
        views = []
        for matrix in self._geometry.slice_matrices:
            slot = self._template.slots[f"{matrix.name}.weight"]
            rows = matrix.rows * (self._template.slices if matrix.cut is Cut.ROWS else 1)
            views.append(self._bytes[slot.offset : slot.offset + slot.nbytes].view(dtype).reshape(rows, -1))
        return tuple(views)

    def _floats(self, name: str) -> npt.NDArray[np.float32]:
        slot = self._template.slots[name]
        return self._bytes[slot.offset : slot.offset + slot.nbytes].view(np.float32)
