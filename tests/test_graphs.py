"""Layer templates: complete, of the right sizes, and refused when the converter rewrites what is to be filled in."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from device_agent.litert import Runtime
from host import graphs
from host.graphs import WEIGHTS_ALIGNMENT, layer_templates, slot_name
from host.transformer import LayerTensors, LayerTrace, Tensor, layer_forward
from shard_store.errors import ExecutorError
from shard_store.geometry import Activation, Geometry
from shard_store.layer_spec import LayerSpec, NormPosition
from shard_store.template import TemplateKind, pack_template, parse_template
from tests.layers import filled_model, layer_payloads, random_hidden, random_layer, run_once, template_of
from tests.reference import first_slices, run_layer

GEOMETRIES = {
    "4 slices of one head": Geometry(1, 32, 4, 48, 4, Activation.GELU, 1e-12),
    "2 slices of 3 heads": Geometry(1, 48, 6, 20, 2, Activation.GELU_TANH, 1e-5),
    "one slice": Geometry(1, 16, 2, 16, 1, Activation.RELU, 1e-12),
    "norms before": Geometry(1, 48, 6, 20, 2, Activation.GELU, 1e-5, LayerSpec(NormPosition.BEFORE)),
    "a single head and neuron": Geometry(1, 8, 1, 1, 1, Activation.GELU, 1e-12),
}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("sequence", [1, 16])
def test_slots_are_complete_and_lie_where_they_are_filled(name: str, sequence: int) -> None:
    geometry = GEOMETRIES[name]
    for slices in {1, geometry.slices}:
        int8, float32 = layer_templates(geometry, slices, sequence)
        assert (int8.kind, float32.kind) == (TemplateKind.INT8, TemplateKind.FLOAT32)
        for template in (int8, float32):
            assert (template.slices, template.sequence) == (slices, sequence)
            template.check_slots(geometry)
            weights = [slot for slot_, slot in template.slots.items() if slot_.endswith(".weight")]
            inner = [slot for slot_, slot in template.slots.items() if not slot_.endswith(".weight")]
            first = min(slot.offset for slot in weights)
            assert first % WEIGHTS_ALIGNMENT == template.model_bytes % WEIGHTS_ALIGNMENT == 0
            assert all(slot.offset % 64 == 0 for slot in weights)
            assert max(slot.offset + slot.nbytes for slot in inner) <= len(template.flatbuffer) <= first
            assert parse_template(pack_template(template)) == template


@pytest.mark.parametrize("name", GEOMETRIES)
def test_filled_templates_compute_the_layer(name: str) -> None:
    geometry = GEOMETRIES[name]
    weights = random_layer(geometry)
    for slices in {1, geometry.slices}:
        template = template_of(geometry, slices, TemplateKind.FLOAT32, 16)
        hidden, mask = random_hidden(template, geometry), np.ones((1, 16), np.int64)
        expected = run_layer(first_slices(weights, geometry, slices), geometry, hidden, mask)
        with (
            Runtime() as runtime,
            closing(filled_model(template, geometry, layer_payloads(weights, geometry, 32))) as model,
            closing(model.compile(runtime)) as compiled,
        ):
            assert compiled.fully_delegated()
            np.testing.assert_allclose(run_once(runtime, compiled, template, geometry), expected, atol=1e-5)


def test_the_same_geometry_gives_the_same_bytes() -> None:
    geometry = GEOMETRIES["4 slices of one head"]
    assert layer_templates(geometry, 2, 16) == layer_templates(geometry, 2, 16)


def test_templates_hold_no_weights() -> None:
    """Random marks of the conversion would cost space, and hide a slot that is never filled in."""
    for template in layer_templates(GEOMETRIES["4 slices of one head"], 4, 16):
        for name, slot in template.slots.items():
            if not name.endswith(".weight"):
                assert not any(template.flatbuffer[slot.offset : slot.offset + slot.nbytes]), name


Rewrite = Callable[[LayerTensors], LayerTensors]


@pytest.mark.parametrize(
    ("rewrite", "lost"),
    [
        (lambda weights: replace(weights, query=weights.query * 2), "query"),
        (lambda weights: replace(weights, ffn_up_bias=weights.ffn_up_bias + 1), "ffn_up_bias"),
        (lambda weights: replace(weights, key=weights.query, key_bias=weights.query_bias), "key, key_bias"),
    ],
)
def test_a_converter_that_rewrites_weights_is_found_out(
    rewrite: Rewrite, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewritten(hidden: Tensor, mask: Tensor, weights: LayerTensors, **options: object) -> LayerTrace:
        forward: Callable[..., LayerTrace] = layer_forward
        return forward(hidden, mask, rewrite(weights), **options)

    monkeypatch.setattr(graphs, "layer_forward", rewritten)
    with pytest.raises(ExecutorError, match=f"^the TFLite converter rewrote {lost}; use a tested tensorflow version$"):
        layer_templates(GEOMETRIES["4 slices of one head"], 4, 16)


def test_fields_name_slots() -> None:
    assert slot_name("ffn_up_bias") == "ffn_up.bias"
    assert slot_name("attention_norm_gamma") == "attention_norm.gamma"
