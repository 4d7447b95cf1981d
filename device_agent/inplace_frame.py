"""A compiled layer whose packed weights are overwritten for every layer that passes through it."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from device_agent.layer_model import LayerModel
from device_agent.litert import CompiledModel, Runtime
from device_agent.packed_file import PackedFile, PackedTemplate
from device_agent.packed_layout import Int8s, PackedMatrix
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.errors import ExecutorError
from shard_store.geometry import Cut, Geometry
from shard_store.template import Template

Int32s = npt.NDArray[np.int32]


class InPlaceFrame:
    """One compiled model, the file of its packed weights, and the model's small constants.

    The file's pages are mapped twice, here and by the runtime: VmRSS and VmHWM count them twice, a cgroup once.
    """

    def __init__(self, runtime: Runtime, template: Template, geometry: Geometry, packed: PackedTemplate) -> None:
        self.template = template
        self._geometry = geometry
        self.constants = LayerModel(template, geometry)
        self._compiled: CompiledModel | None = None
        self.file = PackedFile.blank(packed)
        self._packed: list[PackedMatrix] = []
        self._sums = [np.zeros(layout.rows, np.int32) for layout in packed.layouts]
        try:
            self._compiled = self._compile(runtime, packed)
        except BaseException:
            self.close()
            raise

    def _compile(self, runtime: Runtime, packed: PackedTemplate) -> CompiledModel:
        for matrix, layout in zip(self._geometry.slice_matrices, packed.layouts, strict=True):
            if matrix.columns % layout.group:
                raise ExecutorError(f"packed layout: slices of {matrix.name} break groups of {layout.group} columns")
            self.constants.floats(f"{matrix.name}.scale")[:] = 1.0  # zero is refused
        self._packed = [PackedMatrix(self.file.view(), layout) for layout in packed.layouts]
        compiled = self.constants.compile(runtime, self.file.path)
        if not compiled.fully_delegated() or self.file.nbytes != packed.nbytes:
            compiled.close()
            raise ExecutorError("the runtime does not take packed weights from a file")
        return compiled

    def fill_layer(self, tensors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Begin a new layer: put in what belongs to it as a whole."""
        self.constants.fill_layer(tensors)
        self.clear_sums()

    def fill_slice(self, index: int, shard: ShardView, decoder: Decoder) -> None:
        """Write a shard's rows and columns where the runtime reads them."""
        self.constants.fill_rows(index, shard)
        for number, (matrix, levels) in enumerate(
            zip(self._geometry.slice_matrices, decoder.levels(shard), strict=True)
        ):
            if matrix.cut is Cut.ROWS:
                self.put_matrix(number, index * matrix.rows, 0, levels, shard.row_sums(number))
            else:
                self.put_matrix(number, 0, index * matrix.columns, levels, shard.row_sums(number))

    def put_matrix(self, number: int, first_row: int, first_column: int, levels: Int8s, row_sums: Int32s) -> None:
        """Write levels (rows, columns) with the sums of their rows (rows,) at a place in one of the six matrices."""
        self._packed[number].put_weights(first_row, first_column, levels)
        self._sums[number][first_row : first_row + len(levels)] += row_sums

    def clear_sums(self) -> None:
        """Forget the weights of the layer before."""
        for sums in self._sums:
            sums[:] = 0

    def compile(self, runtime: Runtime) -> CompiledModel:  # noqa: ARG002
        """Finish the rows; the model has long been compiled."""
        assert self._compiled is not None
        for matrix, packed, sums in zip(self._geometry.slice_matrices, self._packed, self._sums, strict=True):
            packed.put_rows(
                sums, self.constants.floats(f"{matrix.name}.scale"), self.constants.floats(f"{matrix.name}.bias")
            )
        return self._compiled

    def close(self) -> None:
        """Free the model, the file and the constants."""
        if self._compiled is not None:
            self._compiled.close()
        self._packed = []
        self.file.close()
        self.constants.close()
