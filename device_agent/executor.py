"""Runs layers whose weights are constants of a TFLite model (XNNPACK, CPU)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from device_agent.layer_model import LayerFrame, LayerModel
from device_agent.litert import CompiledModel, HostTensor, Runtime
from device_agent.plan import Plan
from shard_store.geometry import Geometry
from shard_store.template import Template


@dataclass(frozen=True, slots=True)
class LayerHandle:
    """A layer ready to run: compiled, with the small constants that the runtime still reads."""

    frame: LayerFrame
    compiled: CompiledModel


class Activations:
    """The hidden states of one text on their way through the layers, and its attention mask."""

    def __init__(self, runtime: Runtime, sequence: int, hidden: int) -> None:
        self.sequence = sequence
        self._states = [HostTensor(runtime, (1, sequence, hidden)) for _ in range(2)]
        self.mask = HostTensor(runtime, (1, 1, 1, sequence))

    @property
    def current(self) -> HostTensor:
        """Input of the next layer: (1, sequence, hidden)."""
        return self._states[0]

    @property
    def following(self) -> HostTensor:
        """Output of the next layer: (1, sequence, hidden)."""
        return self._states[1]

    @property
    def hidden(self) -> npt.NDArray[np.float32]:
        """The current hidden states (sequence, hidden)."""
        states: npt.NDArray[np.float32] = self.current.array[0]
        return states

    def through(self, compiled: CompiledModel) -> None:
        """Take the text through the next layer."""
        compiled.run((self.current, self.mask), (self.following,))
        self.advance()

    def advance(self) -> None:
        """The output becomes the next input."""
        self._states.reverse()

    def close(self) -> None:
        """Release the runtime's views."""
        for tensor in (*self._states, self.mask):
            tensor.close()


class Passenger(Protocol):
    """What travels through the layers: `Activations`, or those of a decoder."""

    def through(self, compiled: CompiledModel) -> None:
        """Run the next layer."""
        ...


class Executor(Protocol):
    """What the pipeline needs of a way to run layers."""

    @property
    def name(self) -> str:
        """For reports."""
        ...

    @property
    def set_aside(self) -> int:
        """How many released layers' memory waits for others."""
        ...

    @property
    def refused(self) -> frozenset[tuple[int, int]]:
        """Slices and sequence of the templates that turned out not to be writable in place."""
        ...

    def in_place(self, slices: int, sequence: int) -> bool:
        """Whether int8 layers that pass are written where they are used; known once the first has been loaded."""
        ...

    def frame(self, template: Template, geometry: Geometry, *, passing: bool) -> LayerFrame:
        """Something to fill a layer in. passing: whether the layer is to be freed soon, so that others can follow."""
        ...

    def prepare(self, frame: LayerFrame) -> LayerHandle:
        """Make a filled layer ready to run."""
        ...

    def run(self, handle: LayerHandle, batch: Sequence[Passenger]) -> None:
        """Take every text of the batch through the layer."""
        ...

    def release(self, handle: LayerHandle) -> None:
        """Free all that the layer holds, or set it aside for another layer."""
        ...

    def begin_pass(self, plan: Plan, sequence: int) -> None:
        """Free what is set aside and of no use for a pass of this plan."""
        ...

    def warm(self, template: Template, geometry: Geometry) -> None:
        """Set aside what the pass that has begun will need for layers that pass."""
        ...

    def close(self) -> None:
        """Free what is set aside."""
        ...


class ConstantExecutor:
    """Weights as constants: compiling packs them for XNNPACK, after which the unpacked ones are given back."""

    name = "constant"
    set_aside = 0
    refused: frozenset[tuple[int, int]] = frozenset()

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def in_place(self, slices: int, sequence: int) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def frame(self, template: Template, geometry: Geometry, *, passing: bool) -> LayerFrame:  # noqa: ARG002
        """An empty model; every layer gets one of its own."""
        return LayerModel(template, geometry)

    def prepare(self, frame: LayerFrame) -> LayerHandle:
        """Compile. The GIL is free meanwhile."""
        return LayerHandle(frame, frame.compile(self.runtime))

    def run(self, handle: LayerHandle, batch: Sequence[Passenger]) -> None:
        """Run the layer over each text. The GIL is free meanwhile."""
        for activations in batch:
            activations.through(handle.compiled)

    def release(self, handle: LayerHandle) -> None:
        """Free packed weights, arena and constants."""
        handle.compiled.close()
        handle.frame.close()

    def begin_pass(self, plan: Plan, sequence: int) -> None:
        """Nothing to do: nothing is ever set aside."""

    def warm(self, template: Template, geometry: Geometry) -> None:
        """Nothing to do: every layer is compiled on its own."""

    def close(self) -> None:
        """Nothing to do."""
