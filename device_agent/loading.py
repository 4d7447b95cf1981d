"""A loading agent: reads a layer's shards and makes the layer ready to run (PIPELOAD, section III)."""

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from device_agent.costs import kind_of
from device_agent.executor import Executor, LayerHandle
from device_agent.layer_model import SHARED_SCALES, LayerFrame
from device_agent.pace import Pace
from device_agent.plan import LayerPlan, Plan, Residency
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.geometry import ShardKey
from shard_store.manifest import Manifest
from shard_store.reader import ShardReader, Store, aligned_buffer
from shard_store.template import Template, TemplateKind

PAGE_BYTES = 4096  # direct reads begin and end on pages
READ_BYTES = 2 << 20  # one read: enough for a flash device's full rate, little enough to hold one per agent
_TEMPLATES_KEPT = 16
_LAYERS_KEPT = 256  # of the plans that ran lately
_FULL_SPEED = Pace()


@dataclass(frozen=True, slots=True)
class LoadedLayer:
    """A layer ready to run, and what that took."""

    handle: LayerHandle
    nbytes: int
    read_ms: float
    prepare_ms: float


@dataclass(frozen=True, slots=True)
class Preloaded:
    """A layer's shards in memory, as stored, by slice."""

    payloads: tuple[memoryview, ...]
    nbytes: int


class LayerSource:
    """All that is needed to load any layer of one store. Shared by all loading agents."""

    def __init__(self, store: Store, reader: ShardReader, executor: Executor, pace: Pace = _FULL_SPEED) -> None:
        self.store = store
        self.pace = pace
        self.reader = reader
        self.executor = executor
        self.geometry = store.manifest.geometry
        self.resident_tensors: Mapping[str, npt.NDArray[np.float32]] = store.resident()
        self.template = lru_cache(_TEMPLATES_KEPT)(self._template)
        self.reads = lru_cache(_LAYERS_KEPT)(self._reads)
        self.layer_tensors = lru_cache(None)(self._layer_tensors)

    def _template(self, layer: LayerPlan, sequence: int) -> Template:
        return self.store.template(layer.kind, len(layer.bitwidths), sequence)

    def _layer_tensors(self, layer: int) -> Mapping[str, npt.NDArray[np.float32]]:
        """The tensors that belong to a layer as a whole, by slot."""
        names = ((name, f"layer.{layer}.{name}") for name in (*self.geometry.layer_tensors, *SHARED_SCALES))
        return {name: self.resident_tensors[full] for name, full in names if full in self.resident_tensors}

    def _reads(self, layer: LayerPlan) -> tuple[tuple[ShardKey, ...], ...]:
        """The layer's shards in groups that one read each fetches: up to READ_BYTES, or one shard if that is larger."""
        groups: list[list[ShardKey]] = []
        for key in layer.shards():
            if groups and self.reader.buffer_bytes([*groups[-1], key]) <= READ_BYTES:
                groups[-1].append(key)
            else:
                groups.append([key])
        return tuple(map(tuple, groups))

    def preload(self, layer: LayerPlan) -> Preloaded:
        """Read all shards of a layer into memory of their own."""
        keys = layer.shards()
        nbytes = self.reader.buffer_bytes(keys)
        return Preloaded(tuple(self.reader.read(keys, aligned_buffer(nbytes))), nbytes)

    def warm(self, plan: Plan, sequence: int) -> None:
        """Get ready for the layers that pass: their first frames take longer than all later ones."""
        passing = [layer for layer in plan.layers if layer.residency is not Residency.RESIDENT]
        if passing:
            self.executor.warm(self.template(passing[0], sequence), self.geometry)

    @cached_property
    def agent_bytes(self) -> Mapping[tuple[TemplateKind, int], int]:
        """Memory that one loading agent holds for itself, by kind and slices of its layers."""
        return agent_bytes(self.store.manifest)


def agent_bytes(manifest: Manifest) -> dict[tuple[TemplateKind, int], int]:
    """Memory that one loading agent holds, by kind and slices of its layers: a read buffer and decoding scratch.

    Of the buffer only as much is ever touched as the largest read needs.
    """
    scratch_bytes = Decoder(manifest.geometry).scratch_bytes
    sizes: dict[tuple[TemplateKind, int], int] = {}
    for bitwidth, layers in manifest.shards.items():
        largest = max(span.nbytes for layer in layers for span in layer) + 2 * PAGE_BYTES
        for slices in range(1, manifest.geometry.slices + 1):
            key = kind_of((bitwidth,)), slices
            nbytes = min(slices * largest, max(READ_BYTES, largest)) + scratch_bytes
            sizes[key] = max(sizes.get(key, 0), nbytes)
    return sizes


class LoadingAgent:
    """One agent with scratch space of its own; used by one thread at a time."""

    def __init__(self, source: LayerSource) -> None:
        self._source = source
        self._decoder = Decoder(source.geometry)
        self._buffer = aligned_buffer(READ_BYTES)

    def load(
        self, layer: LayerPlan, sequence: int, ready_bytes: int, preloaded: Preloaded | None = None
    ) -> LoadedLayer:
        """Read the layer's shards, decode them into a model and compile it."""
        started = time.perf_counter()
        read_seconds = 0.0
        executor, template = self._source.executor, self._source.template(layer, sequence)
        passing = layer.residency is not Residency.RESIDENT
        frame = executor.frame(template, self._source.geometry, passing=passing)
        kind = layer.kind, len(layer.bitwidths), sequence, passing
        try:
            with self._source.pace.kept(("begin", kind)):
                frame.fill_layer(self._source.layer_tensors(layer.layer))
            if preloaded:
                self._fill(frame, layer.shards(), preloaded.payloads, kind)
            else:
                for keys in self._source.reads(layer):
                    before = time.perf_counter()
                    payloads = self._source.reader.read(keys, self._buffer_for(keys))
                    read_seconds += time.perf_counter() - before
                    self._fill(frame, keys, payloads, kind)
            with self._source.pace.kept(("finish", kind)):
                handle = executor.prepare(frame)
        except BaseException:
            frame.close()
            raise
        elapsed = time.perf_counter() - started
        return LoadedLayer(handle, ready_bytes, read_seconds * 1e3, (elapsed - read_seconds) * 1e3)

    def _buffer_for(self, keys: Sequence[ShardKey]) -> memoryview:
        needed = self._source.reader.buffer_bytes(keys)
        if needed > len(self._buffer):
            self._buffer = aligned_buffer(needed)
        return self._buffer

    def _fill(
        self, frame: LayerFrame, keys: Sequence[ShardKey], payloads: Sequence[memoryview], kind: Hashable
    ) -> None:
        with self._source.pace.kept(("fill", kind, tuple(key.bitwidth for key in keys))):
            for key, payload in zip(keys, payloads, strict=True):
                frame.fill_slice(key.slice, ShardView(payload, self._source.geometry, key.bitwidth), self._decoder)
