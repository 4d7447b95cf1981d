"""Layer templates: a .tflite graph whose weights are holes that the loading agent fills in.

One conversion by TensorFlow's converter gives the float graph. From it two templates are cut: "float32" as it is, and
"int8", in which the six matrices become per-channel int8 constants of FULLY_CONNECTED (activations are quantised at
run time). In both, the matrices lie behind the flatbuffer as external buffers, in a fixed order, so that the loader can
free that region as soon as the runtime has packed them; biases, scales and norms stay inside the flatbuffer.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from host.quiet_tensorflow import quiet_stderr, tf
from host.transformer import LayerTensors, Tensor, layer_forward
from shard_store.errors import ExecutorError
from shard_store.geometry import Geometry
from shard_store.template import Slot, Template, TemplateKind

FlatObject: TypeAlias = Any  # the generated schema classes carry no types

WEIGHTS_ALIGNMENT = 4096  # whole pages, so that packed weights can be given back to the system

_MATRICES = ("query", "key", "value", "output", "ffn_up", "ffn_down")
_BIASES = tuple(f"{name}_bias" for name in _MATRICES)
_INPUTS = ("hidden", "mask")
_NORMS = ("attention_norm_gamma", "attention_norm_beta", "ffn_norm_gamma", "ffn_norm_beta")
_PLACEHOLDER_OFFSET = 1 << 40  # any non-zero value: the field must be present before it is known


@dataclass(frozen=True, slots=True)
class LayerGraph:
    """A converted layer and the tensors that stand for its weights."""

    flatbuffer: bytes
    tensor_of: dict[str, int]


def layer_templates(geometry: Geometry, slices: int, sequence: int) -> tuple[Template, Template]:
    """Build the int8 and the float32 template of a layer of `slices` slices at a fixed sequence length."""
    graph = _convert(geometry, slices, sequence)
    return (
        _cut(graph, TemplateKind.INT8, slices, sequence),
        _cut(graph, TemplateKind.FLOAT32, slices, sequence),
    )


def _convert(geometry: Geometry, slices: int, sequence: int) -> LayerGraph:
    weights = _marked_weights(geometry, slices)
    # Norms enter as graph inputs: as constants, the converter would fold them into the next matrix.
    signature = [
        tf.TensorSpec([1, sequence, geometry.hidden], name="hidden"),
        tf.TensorSpec([1, 1, 1, sequence], name="mask"),
        *(tf.TensorSpec([geometry.hidden], name=name) for name in _NORMS),
    ]

    def run(hidden: Tensor, mask: Tensor, *norms: Tensor) -> Tensor:
        tensors = LayerTensors(**{**weights, **dict(zip(_NORMS, norms, strict=True))})
        return layer_forward(
            hidden, mask, tensors,
            head_width=geometry.head_width, activation=geometry.activation, norm_eps=geometry.norm_eps,
        ).hidden  # fmt: skip

    with quiet_stderr():
        concrete = tf.function(run, input_signature=signature, autograph=False).get_concrete_function()
        converted = tf.lite.TFLiteConverter.from_concrete_functions([concrete], trackable_obj=tf.Module()).convert()
    return LayerGraph(converted, _locate(converted, weights))


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


def _locate(flatbuffer: bytes, weights: dict[str, npt.NDArray[np.float32]]) -> dict[str, int]:
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
    expected = {*_INPUTS, *(field.name for field in fields(LayerTensors))}
    if missing := sorted(expected - tensor_of.keys()):
        raise ExecutorError(f"the TFLite converter rewrote {', '.join(missing)}; use a tested tensorflow version")
    return tensor_of


def _cut(graph: LayerGraph, kind: TemplateKind, slices: int, sequence: int) -> Template:
    """Turn norms into constants, matrices into external buffers, and record where everything lies."""
    model = schema.ModelT.InitFromPackedBuf(graph.flatbuffer, 0)
    subgraph = model.subgraphs[0]
    model.description, model.metadata, model.metadataBuffer = "layer", [], []
    model.signatureDefs = []
    subgraph.inputs = np.asarray([graph.tensor_of[name] for name in _INPUTS], np.int32)
    for name in _NORMS:
        _make_constant(model, subgraph.tensors[graph.tensor_of[name]])
    if kind is TemplateKind.INT8:
        for name in _MATRICES:
            _make_int8(subgraph.tensors[graph.tensor_of[name]])
    for name in (*_BIASES, *_NORMS):
        tensor = subgraph.tensors[graph.tensor_of[name]]
        model.buffers[tensor.buffer].data = np.zeros(4 * tensor.shape[0], np.uint8)
    return _pack(model, graph.tensor_of, kind, slices, sequence)


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


def _pack(model: FlatObject, tensor_of: dict[str, int], kind: TemplateKind, slices: int, sequence: int) -> Template:
    tensors = model.subgraphs[0].tensors
    item_bytes = 1 if kind is TemplateKind.INT8 else 4
    sizes = {name: int(np.prod(tensors[tensor_of[name]].shape)) * item_bytes for name in _MATRICES}
    buffers = {name: model.buffers[tensors[tensor_of[name]].buffer] for name in _MATRICES}
    for name, buffer in buffers.items():
        buffer.data, buffer.offset, buffer.size = None, _PLACEHOLDER_OFFSET, sizes[name]
    offset = _aligned(len(_serialize(model)), WEIGHTS_ALIGNMENT)
    slots = {}
    for name, buffer in buffers.items():
        buffer.offset = offset
        slots[f"{name}.weight"] = Slot(offset, sizes[name])
        offset = _aligned(offset + sizes[name], 64)
    flatbuffer = _serialize(model)
    slots.update(_inner_slots(flatbuffer, tensor_of, kind))
    return Template(kind, slices, sequence, flatbuffer, _aligned(offset, WEIGHTS_ALIGNMENT), slots)


def _serialize(model: FlatObject) -> bytes:
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _inner_slots(flatbuffer: bytes, tensor_of: dict[str, int], kind: TemplateKind) -> dict[str, Slot]:
    """Find biases, norms and scales in the finished flatbuffer by the addresses of their views."""
    base = np.frombuffer(flatbuffer, np.uint8)
    model = schema.Model.GetRootAs(flatbuffer, 0)
    subgraph = model.Subgraphs(0)

    def slot(view: npt.NDArray[Any]) -> Slot:
        return Slot(int(view.ctypes.data - base.ctypes.data), int(view.nbytes))

    slots = {}
    for name in (*_BIASES, *_NORMS):
        data = model.Buffers(subgraph.Tensors(tensor_of[name]).Buffer()).DataAsNumpy()
        slots[slot_name(name)] = slot(data)
    if kind is TemplateKind.INT8:
        for name in _MATRICES:
            slots[f"{name}.scale"] = slot(subgraph.Tensors(tensor_of[name]).Quantization().ScaleAsNumpy())
    return slots


def slot_name(field: str) -> str:
    """`query_bias` -> `query.bias`: the field of LayerTensors as a slot of the template."""
    stem, _, part = field.rpartition("_")
    return f"{stem}.{part}"


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment
