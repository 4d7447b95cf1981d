from typing import Any

import pytest

from shard_store.errors import FormatError
from shard_store.geometry import Activation, Cut, Geometry
from shard_store.geometry_json import geometry_document, parse_geometry
from shard_store.json_fields import JsonFields
from shard_store.layer_spec import LayerSpec, NormKind, NormPosition, Positions

LLAMA = LayerSpec(NormPosition.BEFORE, NormKind.RMS, True, True, Positions.ROTARY, kv_heads=2, head_width=16)


def llama(heads: int = 8, slices: int = 2, spec: LayerSpec = LLAMA) -> Geometry:
    return Geometry(2, 64, heads, 96, slices, Activation.SILU, 1e-6, spec)


def test_the_defaults_are_those_of_bert() -> None:
    geometry = Geometry(2, 64, 4, 96, 4, Activation.GELU, 1e-12)
    assert (geometry.head_width, geometry.kv_heads, geometry.slice_attention, geometry.slice_kv) == (16, 4, 16, 16)
    assert [matrix.name for matrix in geometry.slice_matrices] == [
        "query", "key", "value", "output", "ffn_up", "ffn_down",
    ]  # fmt: skip
    assert geometry.layer_tensors[-1] == "ffn_norm.beta"


def test_a_slice_is_a_kv_group() -> None:
    geometry = llama()
    assert {matrix.name: (matrix.rows, matrix.columns) for matrix in geometry.slice_matrices} == {
        "query": (64, 64), "key": (16, 64), "value": (16, 64), "output": (64, 64),
        "ffn_gate": (48, 64), "ffn_up": (48, 64), "ffn_down": (64, 48),
    }  # fmt: skip
    assert [matrix.name for matrix in geometry.slice_matrices if matrix.cut is Cut.COLUMNS] == ["output", "ffn_down"]
    assert geometry.norm_tensors == ("attention_norm.gamma", "ffn_norm.gamma")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 7}, "heads 7 is not a multiple of kv_heads 2"),
        ({"slices": 4}, "kv_heads 2 is not a multiple of slices 4"),
        ({"spec": LayerSpec(NormPosition.BEFORE, causal=True, positions=Positions.ROTARY, head_width=5)}, "5 must be"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        llama(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"causal": True}, "causal layers must have their norms before"),
        ({"norm_position": NormPosition.BEFORE, "positions": Positions.ROTARY}, "rotary positions need causal layers"),
        ({"head_width": 0}, "head_width is 0, must be 1 to 1024"),
    ],
)
def test_impossible_kinds_are_refused(spec: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        LayerSpec(**spec)  # type: ignore[arg-type]


def parsed(document: dict[str, Any]) -> Geometry:
    return parse_geometry(JsonFields(dict(document), "geometry"))


def test_geometry_comes_back_from_json() -> None:
    for geometry in (llama(), Geometry(2, 64, 4, 96, 4, Activation.GELU, 1e-12)):
        assert parsed(geometry_document(geometry)) == geometry
    assert "layer" not in geometry_document(Geometry(2, 64, 4, 96, 4, Activation.GELU, 1e-12))


def test_a_layer_that_says_nothing_new_is_refused() -> None:
    document = geometry_document(llama())
    document["layer"] |= {
        "norm_position": "after", "norm_kind": "layer", "gated": False, "causal": False, "positions": "absolute",
        "kv_heads": None, "head_width": None,
    }  # fmt: skip
    with pytest.raises(FormatError, match=r"layer: must be left out where it says what is so without it"):
        parsed(document)
    document["layer"]["norm_position"] = "between"
    with pytest.raises(FormatError, match="norm_position: is 'between', must be one of after, before"):
        parsed(document)
