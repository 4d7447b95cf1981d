"""The profile as a part of manifest.json (docs/format.md, "profile")."""

import math
from typing import Any

from shard_store.errors import FormatError
from shard_store.geometry import BITWIDTHS, MAX_LAYERS, MAX_SLICES
from shard_store.json_fields import JsonFields, array, integer
from shard_store.profile import PROFILE_VERSION, Grid, Profile, ProfileMethod

_MAX_SAMPLES = 1 << 40


def parse_profile(fields: JsonFields) -> Profile:
    """Reads the object. Raises FormatError; what depends on the geometry is checked with the manifest."""
    version = fields.integer("version", 1, 1 << 20)
    if version != PROFILE_VERSION:
        raise FormatError(f"{fields.where}: version is {version}, this program reads {PROFILE_VERSION}; profile again")
    return Profile(
        metric=fields.text("metric", "[a-z_ ]+"),
        samples=fields.integer("samples", 1, _MAX_SAMPLES),
        data_sha256=fields.text("data_sha256", "[0-9a-f]{64}"),
        method=fields.choice("method", ProfileMethod),
        metrics=_grid(fields, "metrics"),
        submodel_loss=_grid(fields, "submodel_loss"),
        shard_loss=fields.object("shard_loss", _shard_loss),
        layer_choices=tuple(
            tuple(integer(layer, fields.where, 0, MAX_LAYERS) for layer in array(choice, fields.where, MAX_LAYERS))
            for choice in fields.array("layer_choices", MAX_LAYERS)
        ),
    )


def profile_document(profile: Profile) -> dict[str, Any]:
    """The profile as JSON values."""
    return {
        "version": PROFILE_VERSION,
        "metric": profile.metric,
        "samples": profile.samples,
        "data_sha256": profile.data_sha256,
        "method": profile.method.value,
        "metrics": _rows(profile.metrics),
        "submodel_loss": _rows(profile.submodel_loss),
        "shard_loss": {str(bitwidth): _rows(grid) for bitwidth, grid in profile.shard_loss.items()},
        "layer_choices": [list(choice) for choice in profile.layer_choices],
    }


def _shard_loss(fields: JsonFields) -> dict[int, Grid]:
    return {bitwidth: _grid(fields, str(bitwidth)) for bitwidth in BITWIDTHS if fields.has(str(bitwidth))}


def _grid(fields: JsonFields, name: str) -> Grid:
    where = f"{fields.where}.{name}"
    rows = (array(row, where, MAX_SLICES) for row in fields.array(name, MAX_LAYERS))
    return tuple(tuple(_number(value, where) for value in row) for row in rows)


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FormatError(f"{where}: must hold finite numbers")
    return float(value)


def _rows(grid: Grid) -> list[list[float]]:
    return [list(row) for row in grid]
