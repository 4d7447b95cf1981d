"""One layer's .tflite bytes in memory, filled in from shards."""

import mmap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from device_agent.litert import CompiledModel, Runtime
from shard_store.codec import ShardView
from shard_store.decoder import Decoder, slice_views
from shard_store.geometry import Cut, Geometry
from shard_store.template import Template, TemplateKind

SHARED_SCALES = ("output.scale", "ffn_down.scale")


class LayerFrame(Protocol):
    """A layer on its way from shards to something that runs."""

    def fill_layer(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Put in what belongs to the layer as a whole: output biases, norms and the shared row scales."""
        ...

    def fill_slice(self, index: int, shard: ShardView, decoder: Decoder) -> None:
        """Put in one slice: its part of the matrices, its biases and scales."""
        ...

    def compile(self, runtime: Runtime) -> CompiledModel:
        """Make it run. What is compiled lives no longer than the frame."""
        ...

    def close(self) -> None:
        """Free all that the frame holds."""
        ...


class LayerModel:
    """A private anonymous mapping: the template's flatbuffer, then the region of the matrices."""

    def __init__(self, template: Template, geometry: Geometry) -> None:
        self._template = template
        self._geometry = geometry
        # Private: pages of a shared anonymous mapping would outlive MADV_DONTNEED.
        self._map = mmap.mmap(-1, template.model_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._advise("MADV_HUGEPAGE")  # a quarter of the time of filling went into page faults
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._bytes[: len(template.flatbuffer)] = np.frombuffer(template.flatbuffer, np.uint8)
        self.matrices = self._view_matrices()

    def fill_layer(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Put in what belongs to the layer as a whole: output biases, norms and the shared row scales."""
        shared = SHARED_SCALES if self._template.kind is TemplateKind.INT8 else ()
        for name in (*self._geometry.layer_tensors, *shared):
            self.floats(name)[:] = tensors[name]

    def fill_slice(self, index: int, shard: ShardView, decoder: Decoder) -> None:
        """Decode a shard into its rows and columns of the matrices, and put in its biases and scales."""
        decoder.decode(shard, slice_views(self.matrices, self._geometry, index))
        self.fill_rows(index, shard)

    def fill_rows(self, index: int, shard: ShardView) -> None:
        """Put in the biases and scales of a shard."""
        for number, matrix in enumerate(self._geometry.slice_matrices):
            if matrix.cut is Cut.ROWS:
                rows = slice(index * matrix.rows, (index + 1) * matrix.rows)
                self.floats(f"{matrix.name}.bias")[rows] = shard.bias(number)
                if self._template.kind is TemplateKind.INT8:
                    self.floats(f"{matrix.name}.scale")[rows] = shard.scales(number)

    def compile(self, runtime: Runtime, weight_cache: str | None = None) -> CompiledModel:
        """Compile; the pages of the matrices then go back to the system. The GIL is free meanwhile."""
        compiled = runtime.compile(int(self._bytes.ctypes.data), self._template.model_bytes, weight_cache)
        # An operator outside XNNPACK would go on reading the weights from the model.
        if compiled.fully_delegated():
            self._advise("MADV_DONTNEED")
        return compiled

    def _advise(self, advice: str) -> None:
        if hasattr(mmap, advice):  # macOS knows fewer
            start = min(
                self._template.slots[f"{matrix.name}.weight"].offset for matrix in self._geometry.slice_matrices
            )
            self._map.madvise(getattr(mmap, advice), start, self._template.model_bytes - start)

    def close(self) -> None:
        """Unmap. All views of the model die with it."""
        self.matrices = ()
        self._bytes = np.empty(0, np.uint8)
        with suppress(BufferError):  # the traceback of a failed decoding holds views: the map goes when they go
            self._map.close()

    def _view_matrices(self) -> Sequence[npt.NDArray[Any]]:
        dtype = np.int8 if self._template.kind is TemplateKind.INT8 else np.float32
        views = []
        for matrix in self._geometry.slice_matrices:
            slot = self._template.slots[f"{matrix.name}.weight"]
            rows = matrix.rows * (self._template.slices if matrix.cut is Cut.ROWS else 1)
            views.append(self._bytes[slot.offset : slot.offset + slot.nbytes].view(dtype).reshape(rows, -1))
        return tuple(views)

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor of a slot, flat."""
        slot = self._template.slots[name]
        return self._bytes[slot.offset : slot.offset + slot.nbytes].view(np.float32)
