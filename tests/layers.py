"""One layer at a time for tests: random weights, templates, filled models, and a run."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from device_agent.layer_model import LayerModel
from device_agent.litert import CompiledModel, HostTensor, Runtime
from host.encode import LayerEncoder
from host.graphs import layer_templates
from host.transformer import MASKED
from host.weights import LayerNorm, LayerWeights, Linear
from shard_store.codec import ShardView
from shard_store.decoder import Decoder
from shard_store.geometry import EXACT_BITWIDTH, Geometry
from shard_store.template import Template, TemplateKind
from tests.reference import Floats


@lru_cache(16)
def _templates(geometry: Geometry, slices: int, sequence: int) -> dict[TemplateKind, Template]:
    return {template.kind: template for template in layer_templates(geometry, slices, sequence)}


def template_of(geometry: Geometry, slices: int, kind: TemplateKind, sequence: int) -> Template:
    """A real template; each is converted once."""
    return _templates(geometry, slices, sequence)[kind]


def random_layer(geometry: Geometry, seed: int = 0) -> LayerWeights:
    """Weights of the size of trained ones, with biases and norms that matter."""
    random = np.random.default_rng(seed)

    def floats(*shape: int, mean: float = 0.0, deviation: float = 0.1) -> Floats:
        return np.float32(mean) + np.float32(deviation) * random.standard_normal(shape, dtype=np.float32)

    def linear(rows: int, columns: int) -> Linear:
        return Linear(floats(rows, columns, deviation=columns**-0.5), floats(rows))

    def norm() -> LayerNorm:
        return LayerNorm(floats(geometry.hidden, mean=1.0), floats(geometry.hidden))

    hidden, ffn = geometry.hidden, geometry.ffn
    return LayerWeights(
        linear(hidden, hidden), linear(hidden, hidden), linear(hidden, hidden), linear(hidden, hidden),
        linear(ffn, hidden), linear(hidden, ffn), norm(), norm(),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LayerPayloads:
    """A layer as a store would hold it at one bitwidth: shards by slice, and the tensors of the layer as a whole."""

    bitwidth: int
    shards: tuple[bytes, ...]
    tensors: Mapping[str, Floats]


def layer_payloads(weights: LayerWeights, geometry: Geometry, bitwidth: int) -> LayerPayloads:
    """Encode a layer, without calibration."""
    encoder = LayerEncoder(0, weights, geometry, None)
    scales = {} if bitwidth == EXACT_BITWIDTH else encoder.shared_scales()
    tensors = {
        "output.bias": weights.output.bias, "ffn_down.bias": weights.ffn_down.bias,
        "attention_norm.gamma": weights.attention_norm.gamma, "attention_norm.beta": weights.attention_norm.beta,
        "ffn_norm.gamma": weights.ffn_norm.gamma, "ffn_norm.beta": weights.ffn_norm.beta,
        **{f"{name}.scale": values for name, values in scales.items()},
    }  # fmt: skip
    return LayerPayloads(bitwidth, tuple(payload for _key, payload in encoder.shards(bitwidth, scales)), tensors)


def filled_model(template: Template, geometry: Geometry, payloads: LayerPayloads) -> LayerModel:
    """A model of the first slices, ready to compile."""
    model = LayerModel(template, geometry)
    model.fill_layer(payloads.tensors)
    for index, payload in enumerate(payloads.shards[: template.slices]):
        model.fill_slice(index, ShardView(memoryview(payload), geometry, payloads.bitwidth), Decoder(geometry))
    return model


def random_hidden(template: Template, geometry: Geometry) -> Floats:
    """Hidden states (1, sequence, hidden)."""
    return np.random.default_rng(9).standard_normal((1, template.sequence, geometry.hidden), dtype=np.float32)


def run_once(
    runtime: Runtime, compiled: CompiledModel, template: Template, geometry: Geometry, padding: int = 0
) -> Floats:
    """The layer's output (1, sequence, hidden) for random hidden states, the last `padding` of them masked."""
    shape = (1, template.sequence, geometry.hidden)
    hidden, following = HostTensor(runtime, shape), HostTensor(runtime, shape)
    mask = HostTensor(runtime, (1, 1, 1, template.sequence))
    with closing(hidden), closing(following), closing(mask):
        hidden.array[:] = random_hidden(template, geometry)
        mask.array[..., template.sequence - padding :] = MASKED
        compiled.run((hidden, mask), (following,))
        return following.array.copy()
