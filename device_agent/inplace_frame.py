"""A compiled layer whose packed weights are overwritten for every layer that passes through it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from device_agent.layer_model import LayerModel
from device_agent.litert import CompiledModel, Runtime
from device_agent.packed_file import PackedFile, PackedTemplate
from device_agent.packed_layout import Int8s, PackedBlock, PackedMatrix
from device_agent.packed_rows import Int32s, PackedRows
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.errors import ExecutorError
from shard_store.geometry import Cut, Geometry, SliceMatrix
from shard_store.template import Template


class InPlaceFrame:
    """One compiled model, the file of its packed weights, and the model's small constants.

    The file's pages are mapped twice, here and by the runtime: VmRSS and VmHWM count them twice, a cgroup once.
    Where everything goes is worked out once, because a layer has thousands of places and takes a millisecond.
    """

    def __init__(self, runtime: Runtime, template: Template, geometry: Geometry, packed: PackedTemplate) -> None:
        self.template = template
        self._geometry = geometry
        self.constants = LayerModel(template, geometry)
        self._compiled: CompiledModel | None = None
        self.file = PackedFile.blank(packed)
        self._blocks: list[list[PackedBlock]] = []  # [slice][matrix]
        self._rows: PackedRows | None = None
        self._norms: dict[str, npt.NDArray[np.float32]] = {}
        try:
            self._compiled = self._compile(runtime, packed)
        except BaseException:
            self.close()
            raise

    def _compile(self, runtime: Runtime, packed: PackedTemplate) -> CompiledModel:
        for matrix in self._geometry.slice_matrices:
            self.constants.floats(f"{matrix.name}.scale")[:] = 1.0  # zero is refused
        file = self.file.view()
        matrices = [PackedMatrix(file, layout) for layout in packed.layouts]
        self._blocks = [
            [_block(*pair, index) for pair in zip(self._geometry.slice_matrices, matrices, strict=True)]
            for index in range(self.template.slices)
        ]
        self._rows = PackedRows(file, packed.layouts, self._geometry, self.template.slices)
        self._norms = {name: self.constants.floats(name) for name in self._geometry.norm_tensors}
        compiled = self.constants.compile(runtime, self.file.path)
        if not compiled.fully_delegated() or self.file.nbytes != packed.nbytes:
            compiled.close()
            raise ExecutorError("the runtime does not take packed weights from a file")
        return compiled

    def fill_layer(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Begin a new layer: put in what belongs to it as a whole."""
        assert self._rows is not None
        for name, values in self._norms.items():
            values[:] = tensors[name]
        self._rows.put_shared(tensors)

    def fill_slice(self, index: int, shard: ShardView, decoder: Decoder) -> None:
        """Write a shard's rows and columns where the runtime reads them."""
        for number, levels in enumerate(decoder.levels(shard)):
            self.put_matrix(number, index, levels)
        self.put_numbers(index, shard.row_numbers)

    def put_matrix(self, number: int, index: int, levels: Int8s) -> None:
        """Write contiguous levels (rows, columns): a slice's part of one of the layer's matrices."""
        self._blocks[index][number].put(levels)

    def put_numbers(self, index: int, numbers: Int32s) -> None:
        """Take the numbers of a slice's rows, as its shard has them."""
        assert self._rows is not None
        self._rows.put(index, numbers)

    def compile(self, runtime: Runtime) -> CompiledModel:  # noqa: ARG002
        """Finish the rows; the model has long been compiled."""
        assert self._compiled is not None
        assert self._rows is not None
        self._rows.finish()
        return self._compiled

    def close(self) -> None:
        """Free the model, the file and the constants."""
        if self._compiled is not None:
            self._compiled.close()
        self._blocks, self._norms, self._rows = [], {}, None
        self.file.close()
        self.constants.close()


def _block(shape: SliceMatrix, matrix: PackedMatrix, index: int) -> PackedBlock:
    """Where a slice's part of a matrix goes."""
    if shape.cut is Cut.ROWS:
        return matrix.block(index * shape.rows, shape.rows, 0, shape.columns)
    return matrix.block(0, shape.rows, index * shape.columns, shape.columns)
