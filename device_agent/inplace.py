"""Runs layers whose weights are written straight into the memory that XNNPACK computes with: nothing is packed.

XNNPACK can keep its packed weights in a file, which it maps shared. If that file lies in memory (memfd), a layer is
loaded by overwriting it, and one compiled model serves layer after layer. How weights are packed is learned once for
each template (layout_probe); where that fails, layers are compiled one by one as by the constant executor.
"""

import logging
from collections.abc import Sequence
from enum import Enum
from threading import Lock
from typing import TypeAlias

from device_agent.executor import ConstantExecutor, Executor, LayerHandle, Passenger
from device_agent.inplace_frame import InPlaceFrame
from device_agent.layer_model import LayerFrame
from device_agent.layout_probe import probe_layout
from device_agent.litert import Runtime
from device_agent.packed_file import PackedTemplate
from device_agent.plan import Plan, Residency, Schedule
from shard_store.errors import ExecutorError
from shard_store.geometry import Geometry
from shard_store.template import Template, TemplateKind

logger = logging.getLogger(__name__)

_Key: TypeAlias = tuple[int, int]  # slices and sequence: what tells a store's int8 templates apart


class ExecutorChoice(str, Enum):
    """Which executor an engine uses."""

    AUTO = "auto"  # in place where that works
    CONSTANT = "constant"


class InPlaceExecutor:
    """Int8 layers that pass are written in place; layers that stay, and exact ones, are compiled on their own.

    A layer that stays would gain nothing: the fresh pages of its file cost as much time as packing. Between
    passes as many frames are kept as the last pass had in flight. One executor serves one store.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._ordinary = ConstantExecutor(runtime)
        self._lock = Lock()
        self._learned: dict[_Key, PackedTemplate | None] = {}
        self._spare: list[InPlaceFrame] = []
        self._limit = 0

    @property
    def name(self) -> str:
        """How int8 layers that pass are run: "in-place", or "constant" once one template could not be learned."""
        return self._ordinary.name if self.refused else "in-place"

    @property
    def refused(self) -> frozenset[_Key]:
        """Slices and sequence of the templates that could not be learned."""
        return frozenset(key for key, packed in tuple(self._learned.items()) if packed is None)

    @property
    def set_aside(self) -> int:
        """Frames that wait for layers."""
        return len(self._spare)

    def in_place(self, slices: int, sequence: int) -> bool:
        """Whether the packing of these templates has been learned, or is yet to be: learning it seldom fails."""
        return (slices, sequence) not in self._learned or self._learned[slices, sequence] is not None

    def frame(self, template: Template, geometry: Geometry, *, passing: bool) -> LayerFrame:
        """A spare frame or a new one. The first for a template takes time: the packing is learned."""
        if passing and template.kind is TemplateKind.INT8:
            with self._lock:
                if frame := self._take_spare(template) or self._new_frame(template, geometry):
                    return frame
        return self._ordinary.frame(template, geometry, passing=passing)

    def _take_spare(self, template: Template) -> InPlaceFrame | None:
        index = next((i for i, frame in enumerate(self._spare) if _key(frame.template) == _key(template)), None)
        return None if index is None else self._spare.pop(index)

    def _new_frame(self, template: Template, geometry: Geometry) -> InPlaceFrame | None:
        key = _key(template)
        try:
            if key not in self._learned:
                self._learned[key] = probe_layout(self._ordinary.runtime, template, geometry)
            if (packed := self._learned[key]) is not None:
                return InPlaceFrame(self._ordinary.runtime, template, geometry, packed)
        except (ExecutorError, OSError, ValueError) as error:
            self._learned[key] = None
            logger.warning("layers are compiled one by one: %s", error)
        return None

    def prepare(self, frame: LayerFrame) -> LayerHandle:
        """Compile, or finish what was written in place."""
        return self._ordinary.prepare(frame)

    def run(self, handle: LayerHandle, batch: Sequence[Passenger]) -> None:
        """Run the layer over each text. The GIL is free meanwhile."""
        self._ordinary.run(handle, batch)

    def release(self, handle: LayerHandle) -> None:
        """Set an in-place frame aside for the next layer; free all others."""
        if isinstance(handle.frame, InPlaceFrame):
            with self._lock:
                if len(self._spare) < self._limit:
                    self._spare.append(handle.frame)
                    return
        self._ordinary.release(handle)

    def begin_pass(self, plan: Plan, sequence: int) -> None:
        """Free what is set aside, but for as many frames as this pass will have in flight."""
        passing = [layer for layer in plan.layers if layer.residency is not Residency.RESIDENT]
        lattice = all(layer.kind is TemplateKind.INT8 for layer in passing)
        limit = plan.most_in_flight if lattice and plan.schedule is Schedule.PIPELINED else 0
        with self._lock:
            fitting = [frame for frame in self._spare if _key(frame.template) == (plan.slices, sequence)]
            self._trim(fitting[:limit])
            self._limit = limit

    def warm(self, template: Template, geometry: Geometry) -> None:
        """Learn the packing, and make the frames that the pass will have in flight."""
        while template.kind is TemplateKind.INT8 and len(self._spare) < self._limit:
            frame = self._new_frame(template, geometry)
            if frame is None:
                return
            with self._lock:
                self._spare.append(frame)

    def close(self) -> None:
        """Free what is set aside."""
        with self._lock:
            self._trim([])

    def _trim(self, kept: list[InPlaceFrame]) -> None:
        for frame in self._spare:
            if frame not in kept:
                frame.close()
        self._spare = kept


def choose_executor(choice: ExecutorChoice, runtime: Runtime) -> Executor:
    """The executor of one store."""
    return ConstantExecutor(runtime) if choice is ExecutorChoice.CONSTANT else InPlaceExecutor(runtime)


def _key(template: Template) -> _Key:
    return template.slices, template.sequence
