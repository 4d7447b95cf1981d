"""Learns how this device's XNNPACK packs a template's matrices, and proves it on weights that it has not seen."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt

from device_agent.causal_activations import CausalActivations, Segment
from device_agent.inplace_frame import InPlaceFrame
from device_agent.key_values import KeyValueCache
from device_agent.layer_model import LayerModel
from device_agent.litert import CompiledModel, HostTensor, Runtime
from device_agent.packed_file import PackedFile, PackedTemplate
from device_agent.packed_layout import Float32s, Int8s, MatrixLayout, PackedMatrix, learn_layout
from shard_store.errors import ExecutorError
from shard_store.geometry import LATTICE_BITWIDTHS, Cut, Geometry
from shard_store.shard_layout import shard_layout
from shard_store.template import Template

_LEARNED_FROM, _PROVEN_ON = 1, 2  # seeds


def probe_layout(runtime: Runtime, template: Template, geometry: Geometry) -> PackedTemplate:
    """Learn the layout from a packed random layer; check that a second one comes out the same.

    Weights that are written in place must make the file that the packer makes, byte for byte but for rows that are no
    part of the matrix, and the outputs that an ordinary compiled model gives, bit for bit. Raises ExecutorError if
    anything is in doubt. Holds no more than the loading of an ordinary layer: one packed layer, one unpacked.
    """
    with closing(PackedFile()) as file:
        _pack(runtime, template, geometry, _LEARNED_FROM, file.path)
        layouts = tuple(_learn(file, template, geometry))
        for layout in layouts:
            PackedMatrix(file.view(), layout).clear()
        packed = file.blank_template(layouts)
    with closing(InPlaceFrame(runtime, template, geometry, packed)) as frame:
        _fill_in_place(frame, geometry, _PROVEN_ON)
        found = _outputs(runtime, template, geometry, frame.compile(runtime))
        written = frame.file.digest()
    with closing(PackedFile()) as file:
        _pack(runtime, template, geometry, _PROVEN_ON, file.path)
        for layout in layouts:
            PackedMatrix(file.view(), layout).clear_padding()
        if file.digest() != written:
            raise ExecutorError("packed layout: weights written in place differ from packed ones")
    with closing(LayerModel(template, geometry)) as model:
        _fill(model, template, geometry, _PROVEN_ON)
        with closing(model.compile(runtime)) as compiled:
            expected = _outputs(runtime, template, geometry, compiled)
    if not np.array_equal(found, expected):
        raise ExecutorError("packed layout: a layer written in place computes something else")
    return packed


def _pack(runtime: Runtime, template: Template, geometry: Geometry, seed: int, path: str) -> None:
    with closing(LayerModel(template, geometry)) as model:
        _fill(model, template, geometry, seed)
        model.compile(runtime, path).close()


def _learn(file: PackedFile, template: Template, geometry: Geometry) -> Iterator[MatrixLayout]:
    for number in range(len(geometry.slice_matrices)):
        yield learn_layout(file.view(), *_random_matrix(template, geometry, _LEARNED_FROM, number))


def _fill(model: LayerModel, template: Template, geometry: Geometry, seed: int) -> None:
    _fill_norms(model, geometry, seed)
    for number, matrix in enumerate(geometry.slice_matrices):
        levels, scales, biases = _random_matrix(template, geometry, seed, number)
        model.matrices[number][:] = levels
        model.floats(f"{matrix.name}.scale")[:] = scales
        model.floats(f"{matrix.name}.bias")[:] = biases


def _fill_in_place(frame: InPlaceFrame, geometry: Geometry, seed: int) -> None:
    """As shards do it: the parts of each matrix slice by slice, then the numbers of their rows."""
    sections, slices = shard_layout(geometry, LATTICE_BITWIDTHS[0]), frame.template.slices
    numbers = np.zeros((slices, sections.numbers.nbytes // 4), np.int32)
    shared: dict[str, Float32s] = {name: frame.constants.floats(name) for name in geometry.norm_tensors}
    _fill_norms(frame.constants, geometry, seed)
    for number, matrix in enumerate(geometry.slice_matrices):
        levels, scales, biases = _random_matrix(frame.template, geometry, seed, number)
        if matrix.cut is Cut.COLUMNS:
            shared |= {f"{matrix.name}.scale": scales, f"{matrix.name}.bias": biases}
        else:
            first = sections.first_rows[number]
            for section, values in ((sections.scales, scales), (sections.biases, biases)):
                start = sections.word(section) + first
                numbers[:, start : start + matrix.rows] = values.view(np.int32).reshape(slices, -1)
        start = sections.word(sections.sums) + sections.first_sums[number]
        for index, part in enumerate(np.split(levels, slices, axis=0 if matrix.cut is Cut.ROWS else 1)):
            frame.put_matrix(number, index, np.ascontiguousarray(part))
            numbers[index, start : start + matrix.rows] = part.sum(axis=1, dtype=np.int32)
    frame.fill_layer(shared)
    for index in range(slices):
        frame.put_numbers(index, numbers[index])


def _random_matrix(template: Template, geometry: Geometry, seed: int, number: int) -> tuple[Int8s, Float32s, Float32s]:
    """Levels (rows, columns), scales and biases (rows,)."""
    name = geometry.slice_matrices[number].name
    rows = template.slots[f"{name}.bias"].nbytes // 4
    columns = template.slots[f"{name}.weight"].nbytes // rows
    generator = np.random.default_rng((seed, number))
    scales = generator.uniform(0.5, 1.5, rows) / (64 * np.sqrt(columns))
    biases = generator.standard_normal(rows, np.float32)
    levels = np.frombuffer(generator.bytes(rows * columns), np.int8).reshape(rows, columns)
    return levels, scales.astype(np.float32), biases


def _fill_norms(model: LayerModel, geometry: Geometry, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name in geometry.norm_tensors:
        slot = model.floats(name)
        slot[:] = float(name.endswith("gamma")) + 0.1 * generator.standard_normal(slot.size)


def _outputs(
    runtime: Runtime, template: Template, geometry: Geometry, compiled: CompiledModel
) -> npt.NDArray[np.float32]:
    """The layer's outputs (1, sequence, hidden) for random inputs."""
    if geometry.spec.causal:
        return _causal_outputs(runtime, template, geometry, compiled)
    shape = (1, template.sequence, geometry.hidden)
    hidden, following = HostTensor(runtime, shape), HostTensor(runtime, shape)
    mask = HostTensor(runtime, (1, 1, 1, template.sequence))
    with closing(hidden), closing(following), closing(mask):
        hidden.array[:] = np.random.default_rng(_PROVEN_ON).standard_normal(shape)
        compiled.run((hidden, mask), (following,))
        return following.array.copy()


def _causal_outputs(
    runtime: Runtime, template: Template, geometry: Geometry, compiled: CompiledModel
) -> npt.NDArray[np.float32]:
    """The same of a causal layer, for one text."""
    cache = KeyValueCache(geometry, 1, template.slices, template.sequence)
    segment = Segment(np.zeros(template.sequence, np.int64), cache)
    activations = CausalActivations(
        runtime, geometry, template.slices, template.sequence, segments=[segment], frequencies=None
    )
    with closing(activations):
        generator = np.random.default_rng(_PROVEN_ON)
        activations.hidden[:] = generator.standard_normal(activations.hidden.shape)
        activations.through(compiled)
        return activations.hidden.copy()
