"""Runs layers whose weights are constants of a TFLite model (XNNPACK, CPU)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from device_agent.layer_model import LayerModel
from device_agent.litert import CompiledModel, HostTensor, Runtime


@dataclass(frozen=True, slots=True)
class LayerHandle:
    """A layer ready to run: compiled, with the small constants that the runtime still reads."""

    model: LayerModel
    compiled: CompiledModel


class Activations:
    """The hidden states of one text on their way through the layers, and its attention mask."""

    def __init__(self, runtime: Runtime, sequence: int, hidden: int) -> None:
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

    def advance(self) -> None:
        """The output becomes the next input."""
        self._states.reverse()

    def close(self) -> None:
        """Release the runtime's views."""
        for tensor in (*self._states, self.mask):
            tensor.close()


class Executor(Protocol):
    """What the pipeline needs of a way to run layers."""

    def prepare(self, model: LayerModel) -> LayerHandle:
        """Make a filled layer model ready to run."""
        ...

    def run(self, handle: LayerHandle, batch: Sequence[Activations]) -> None:
        """Take every text of the batch through the layer."""
        ...

    def release(self, handle: LayerHandle) -> None:
        """Free all that the layer holds."""
        ...


class ConstantExecutor:
    """Weights as constants: compiling packs them for XNNPACK, after which the unpacked ones are given back."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def prepare(self, model: LayerModel) -> LayerHandle:
        """Compile. The GIL is free meanwhile."""
        compiled = self._runtime.compile(model.address, model.nbytes)
        # An operator outside XNNPACK would go on reading the weights from the model.
        if compiled.fully_delegated():
            model.drop_weights()
        return LayerHandle(model, compiled)

    def run(self, handle: LayerHandle, batch: Sequence[Activations]) -> None:
        """Run the layer over each text. The GIL is free meanwhile."""
        for activations in batch:
            handle.compiled.run((activations.current, activations.mask), (activations.following,))
            activations.advance()

    def release(self, handle: LayerHandle) -> None:
        """Free packed weights, arena and constants."""
        handle.compiled.close()
        handle.model.close()
