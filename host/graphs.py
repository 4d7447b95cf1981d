"""Layer templates: a .tflite graph whose weights are holes that the loading agent fills in.

One conversion by TensorFlow's converter gives the float graph. From it two templates are cut: "float32" as it is, and
"int8", in which the matrices become per-channel int8 constants of FULLY_CONNECTED (activations are quantised at
run time). In both, the matrices lie behind the flatbuffer as external buffers, in a fixed order, so that the loader can
free that region as soon as the runtime has packed them; biases, scales and norms stay inside the flatbuffer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from host.quiet_tensorflow import quiet_stderr, tf
from host.transformer import LayerTensors, Tensor, attention_input, finish, layer_forward, project
from shard_store.errors import ExecutorError
from shard_store.geometry import Geometry
from shard_store.template import Slot, Template, TemplateKind

FlatObject: TypeAlias = Any  # the generated schema classes carry no types
_Places: TypeAlias = dict[str, tuple[int, int]]  # by name: number of the subgraph, index of the tensor

WEIGHTS_ALIGNMENT = 4096  # whole pages, so that packed weights can be given back to the system

_PLACEHOLDER_OFFSET = 1 << 40  # any non-zero value: the field must be present before it is known


@dataclass(frozen=True, slots=True)
class _Part:
    """One graph of a layer: its inputs and outputs, in alphabetical order (the one that the runtime may keep)."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    matrices: tuple[str, ...]
    norms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """A converted part of a layer and the tensors that stand for its weights."""

    part: _Part
    flatbuffer: bytes
    tensor_of: dict[str, int]


def layer_templates(geometry: Geometry, slices: int, sequence: int) -> tuple[Template, Template]:
    """Build the int8 and the float32 template of a layer of `slices` slices at a fixed sequence length.

    A bidirectional layer is one graph. A causal one is two, "project" and "finish", between which the device attends
    over its cache, so that no graph depends on how much the cache holds.
    """
    graphs = [_convert(geometry, part, slices, sequence) for part in _parts(geometry)]
    return (
        _cut(graphs, TemplateKind.INT8, slices, sequence),
        _cut(graphs, TemplateKind.FLOAT32, slices, sequence),
    )


def _parts(geometry: Geometry) -> tuple[_Part, ...]:
    matrices = tuple(matrix.name for matrix in geometry.slice_matrices)
    norms = tuple(field_name(slot) for slot in geometry.norm_tensors)
    if not geometry.spec.causal:
        return (_Part("layer", ("hidden", "mask"), ("hidden",), matrices, norms),)
    middle, half = matrices.index("output"), len(norms) // 2
    return (
        _Part("project", ("hidden",), ("key", "query", "value"), matrices[:middle], norms[:half]),
        _Part("finish", ("attended", "hidden"), ("hidden",), matrices[middle:], norms[half:]),
    )


def _convert(geometry: Geometry, part: _Part, slices: int, sequence: int) -> LayerGraph:
    marked = _marked_weights(geometry, slices)
    weights = {name: values for name, values in marked.items() if name.removesuffix("_bias") in part.matrices}
    shapes = {
        "hidden": [1, sequence, geometry.hidden],
        "mask": [1, 1, 1, sequence],
        "attended": [1, sequence, geometry.slice_attention * slices],
    }
    # Norms enter as graph inputs: as constants, the converter would fold them into the next matrix.
    signature = [
        *(tf.TensorSpec(shapes[name], name=name) for name in part.inputs),
        *(tf.TensorSpec([geometry.hidden], name=name) for name in part.norms),
    ]
    absent: dict[str, Tensor] = dict.fromkeys(field.name for field in fields(LayerTensors))

    def run(*arguments: Tensor) -> Tensor:
        inputs, norms = arguments[: len(part.inputs)], arguments[len(part.inputs) :]
        tensors = LayerTensors(**{**absent, **weights, **dict(zip(part.norms, norms, strict=True))})
        return _run_part(geometry, part, inputs, tensors)

    with quiet_stderr():
        concrete = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
        converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete], trackable_obj=tf.Module()).convert()
    return LayerGraph(part, converted, _locate(converted, part, weights))


def _run_part(geometry: Geometry, part: _Part, inputs: Sequence[Tensor], tensors: LayerTensors) -> Tensor:
    eps, spec = geometry.norm_eps, geometry.spec
    if part.name == "project":
        query, key, value = project(attention_input(inputs[0], tensors, norm_eps=eps, spec=spec), tensors)
        return key, query, value
    if part.name == "finish":
        attended, hidden = inputs
        return finish(hidden, attended, tensors, activation=geometry.activation, norm_eps=eps, spec=spec).hidden
    hidden, mask = inputs
    return layer_forward(
        hidden, mask, tensors,
        head_width=geometry.head_width, activation=geometry.activation, norm_eps=eps, spec=spec,
    ).hidden  # fmt: skip


def _marked_weights(geometry: Geometry, slices: int) -> dict[str, npt.NDArray[np.float32]]:
    """Random constants: each is told from the others by its bytes after conversion."""
    random = np.random.default_rng(0)
    weights = {}
    for matrix in geometry.slice_matrices:
        rows, columns = (
            (matrix.rows * slices, matrix.columns) if matrix.cut == "rows" else (matrix.rows, matrix.columns * slices)
        )
        weights[matrix.name] = random.standard_normal((rows, columns), dtype=np.float32)
        weights[f"{matrix.name}_bias"] = random.standard_normal(rows, dtype=np.float32)
    return weights


def _locate(flatbuffer: bytes, part: _Part, weights: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, int]:
    model = schema.ModelT.InitFromPackedBuf(flatbuffer, 0)
    graph = model.subgraphs[0]
    name_of = {array.tobytes(): name for name, array in weights.items()}
    tensor_of = {}
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        if data is not None and (name := name_of.get(np.asarray(data, np.uint8).tobytes())):
            tensor_of[name] = index
    for index in graph.inputs:
        name = graph.tensors[index].name.decode().split(":")[0].removeprefix("serving_default_")
        tensor_of[name] = index
    # The converter may order outputs as it likes; its signature knows which is which.
    tensor_of |= {entry.name.decode(): entry.tensorIndex for entry in model.signatureDefs[0].outputs}
    if missing := sorted({*part.inputs, *part.norms, *weights} - tensor_of.keys()):
        raise ExecutorError(f"the TFLite converter rewrote {', '.join(missing)}; use a tested tensorflow version")
    return tensor_of


def _cut(graphs: Sequence[LayerGraph], kind: TemplateKind, slices: int, sequence: int) -> Template:
    """Turn norms into constants, matrices into external buffers, and record where everything lies."""
    model = _merge([schema.ModelT.InitFromPackedBuf(graph.flatbuffer, 0) for graph in graphs])
    model.description, model.metadata, model.metadataBuffer = "layer", [], []
    places: _Places = {}
    for number, (graph, subgraph) in enumerate(zip(graphs, model.subgraphs, strict=True)):
        part, tensor_of = graph.part, graph.tensor_of
        subgraph.inputs = np.asarray([tensor_of[name] for name in part.inputs], np.int32)
        subgraph.outputs = np.asarray([tensor_of[f"output_{place}"] for place in range(len(part.outputs))], np.int32)
        for name in part.norms:
            _make_constant(model, subgraph.tensors[tensor_of[name]])
        if kind is TemplateKind.INT8:
            for name in part.matrices:
                _make_int8(subgraph.tensors[tensor_of[name]])
        small = (*(f"{matrix}_bias" for matrix in part.matrices), *part.norms)
        for name in small:
            tensor = subgraph.tensors[tensor_of[name]]
            model.buffers[tensor.buffer].data = np.zeros(4 * tensor.shape[0], np.uint8)
        places |= {name: (number, tensor_of[name]) for name in (*part.matrices, *small)}
    model.signatureDefs = [_signature(graph.part, model, n) for n, graph in enumerate(graphs)] if graphs[1:] else []
    return _pack(model, places, kind, slices, sequence)


def _merge(models: Sequence[FlatObject]) -> FlatObject:
    """All subgraphs in the first model, with operators and buffers of their own."""
    first, *others = models
    for other in others:
        for subgraph in other.subgraphs:
            for operator in subgraph.operators:
                operator.opcodeIndex += len(first.operatorCodes)
            for tensor in subgraph.tensors:
                tensor.buffer += len(first.buffers)
        first.operatorCodes += other.operatorCodes
        first.buffers += other.buffers
        first.subgraphs += other.subgraphs
    return first


def _signature(part: _Part, model: FlatObject, number: int) -> FlatObject:
    """The runtime runs the parts of a layer by the order of their signatures."""
    signature, subgraph = schema.SignatureDefT(), model.subgraphs[number]
    signature.signatureKey, signature.subgraphIndex = part.name, number
    signature.inputs = [_tensor_map(*pair) for pair in zip(part.inputs, subgraph.inputs, strict=True)]
    signature.outputs = [_tensor_map(*pair) for pair in zip(part.outputs, subgraph.outputs, strict=True)]
    return signature


def _tensor_map(name: str, index: int) -> FlatObject:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, int(index)
    return entry


def _make_constant(model: FlatObject, tensor: FlatObject) -> None:
    tensor.buffer = len(model.buffers)
    model.buffers.append(schema.BufferT())


def _make_int8(tensor: FlatObject) -> None:
    rows = int(tensor.shape[0])
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.zeros(rows, np.float32)
    quantization.zeroPoint = np.zeros(rows, np.int64)
    quantization.quantizedDimension = 0
    tensor.type, tensor.quantization = schema.TensorType.INT8, quantization


def _pack(model: FlatObject, places: _Places, kind: TemplateKind, slices: int, sequence: int) -> Template:
    item_bytes = 1 if kind is TemplateKind.INT8 else 4
    tensors = {name: model.subgraphs[number].tensors[index] for name, (number, index) in places.items()}
    matrices = [name for name in tensors if f"{name}_bias" in tensors]
    sizes = {name: int(np.prod(tensors[name].shape)) * item_bytes for name in matrices}
    buffers = {name: model.buffers[tensors[name].buffer] for name in matrices}
    for name, buffer in buffers.items():
        buffer.data, buffer.offset, buffer.size = None, _PLACEHOLDER_OFFSET, sizes[name]
    offset = _aligned(len(_serialize(model)), WEIGHTS_ALIGNMENT)
    slots = {}
    for name, buffer in buffers.items():
        buffer.offset = offset
        slots[f"{name}.weight"] = Slot(offset, sizes[name])
        offset = _aligned(offset + sizes[name], 64)
    flatbuffer = _serialize(model)
    slots.update(_inner_slots(flatbuffer, places, kind))
    return Template(kind, slices, sequence, flatbuffer, _aligned(offset, WEIGHTS_ALIGNMENT), slots)


def _serialize(model: FlatObject) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _inner_slots(flatbuffer: bytes, places: _Places, kind: TemplateKind) -> dict[str, Slot]:
    """Find biases, norms and scales in the finished flatbuffer by the addresses of their views."""
    base = np.frombuffer(flatbuffer, np.uint8)
    model = schema.Model.GetRootAs(flatbuffer, 0)

    def slot(view: npt.NDArray[Any]) -> Slot:
        return Slot(int(view.ctypes.data - base.ctypes.data), int(view.nbytes))

    tensors = {name: model.Subgraphs(number).Tensors(index) for name, (number, index) in places.items()}
    matrices = [name for name in tensors if f"{name}_bias" in tensors]
    small = (name for name in tensors if name not in matrices)
    slots = {slot_name(name): slot(model.Buffers(tensors[name].Buffer()).DataAsNumpy()) for name in small}
    if kind is TemplateKind.INT8:
        slots |= {f"{name}.scale": slot(tensors[name].Quantization().ScaleAsNumpy()) for name in matrices}
    return slots


def slot_name(field: str) -> str:
    """`query_bias` -> `query.bias`: the field of LayerTensors as a slot of the template."""
    stem, _, part = field.rpartition("_")
    return f"{stem}.{part}"


def field_name(slot: str) -> str:
    """`attention_norm.gamma` -> `attention_norm_gamma`: the reverse of `slot_name`."""
    return slot.replace(".", "_")


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
