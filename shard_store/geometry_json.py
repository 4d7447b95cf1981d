"""A geometry to and from its JSON object (docs/format.md, "manifest.json")."""

from typing import Any

from shard_store.errors import FormatError
from shard_store.geometry import MAX_FEATURES, Activation, Geometry
from shard_store.json_fields import JsonFields
from shard_store.layer_spec import MAX_HEAD_WIDTH, LayerSpec, NormKind, NormPosition, Positions


def parse_geometry(fields: JsonFields) -> Geometry:
    """From its JSON object. Raises FormatError."""
    names = ("layers", "hidden", "heads", "ffn", "slices")
    sizes = {name: fields.integer(name, 1, MAX_FEATURES) for name in names}
    activation = fields.choice("activation", Activation)
    spec = fields.object("layer", _parse_layer_spec) if fields.has("layer") else LayerSpec()
    return Geometry(**sizes, activation=activation, norm_eps=fields.number("norm_eps"), spec=spec)


def _parse_layer_spec(fields: JsonFields) -> LayerSpec:
    spec = LayerSpec(
        norm_position=fields.choice("norm_position", NormPosition),
        norm_kind=fields.choice("norm_kind", NormKind),
        gated=fields.boolean("gated"),
        causal=fields.boolean("causal"),
        positions=fields.choice("positions", Positions),
        kv_heads=fields.optional_integer("kv_heads", 1, MAX_FEATURES),
        head_width=fields.optional_integer("head_width", 1, MAX_HEAD_WIDTH),
    )
    if spec == LayerSpec():
        raise FormatError(f"{fields.where}: must be left out where it says what is so without it")
    return spec


def geometry_document(geometry: Geometry) -> dict[str, Any]:
    """The JSON object; `layer` only where it says something."""
    document: dict[str, Any] = {
        "layers": geometry.layers, "hidden": geometry.hidden, "heads": geometry.heads, "ffn": geometry.ffn,
        "slices": geometry.slices, "activation": geometry.activation.value, "norm_eps": geometry.norm_eps,
    }  # fmt: skip
    spec = geometry.spec
    if spec != LayerSpec():
        document["layer"] = {
            "norm_position": spec.norm_position.value, "norm_kind": spec.norm_kind.value, "gated": spec.gated,
            "causal": spec.causal, "positions": spec.positions.value, "kv_heads": spec.kv_heads,
            "head_width": spec.head_width,
        }  # fmt: skip
    return document
