"""All that the planner needs to know of an open store on this device."""

import math
from collections.abc import Callable

from device_agent.costs import DeviceCosts
from device_agent.loading import PAGE_BYTES, READ_BYTES, agent_bytes
from device_agent.memory import RUNNING_BYTES, LayerFootprint, layer_footprint
from device_agent.planning.facts import Facts
from shard_store.errors import PlanError
from shard_store.geometry import EXACT_BITWIDTH, Geometry
from shard_store.manifest import Manifest
from shard_store.profile import Profile
from shard_store.reader import Store
from shard_store.shard_layout import SHARD_ALIGNMENT
from shard_store.span import align
from shard_store.template import TemplateKind

InPlace = Callable[[int, int], bool]  # slices and sequence: whether passing layers are written where they are executed


def _everywhere(_slices: int, _sequence: int) -> bool:
    """As on most devices."""
    return True


def store_facts(store: Store, costs: DeviceCosts, in_place: InPlace = _everywhere) -> Facts:
    """Facts of a store on the device that was measured. Raises PlanError for a store without a profile."""
    manifest = store.manifest
    return Facts(
        geometry=manifest.geometry,
        profile=check_profile(manifest),
        costs=costs,
        shard_bytes=shard_bytes(manifest),
        read_bytes=READ_BYTES,
        layer_memory=layer_memory(store, in_place),
        fixed_bytes=RUNNING_BYTES + sum(4 * math.prod(tensor.shape) for tensor in manifest.resident.values()),
        agent_bytes=agent_bytes(manifest),
        text_bytes={sequence: text_bytes(manifest.geometry, sequence) for sequence in manifest.description.sequences},
    )


def check_profile(manifest: Manifest) -> Profile:
    """The store's profile. Raises PlanError if it has none."""
    if manifest.profile is None:
        raise PlanError(
            f"{manifest.description.model} has no importance profile, so nothing can be planned for a target; "
            "make one with `sti profile` and push the store again"
        )
    return manifest.profile


def shard_bytes(manifest: Manifest) -> dict[int, tuple[tuple[int, ...], ...]]:
    """By bitwidth: [layer][slice], with the padding that is read along; a layer's first with its pages' ends."""
    ends = (2 * PAGE_BYTES, *[0] * (manifest.geometry.slices - 1))
    return {
        bitwidth: tuple(
            tuple(align(span.nbytes, SHARD_ALIGNMENT) + end for span, end in zip(layer, ends, strict=True))
            for layer in layers
        )
        for bitwidth, layers in manifest.shards.items()
    }


def planned_bitwidths(manifest: Manifest) -> tuple[int, ...]:
    """What the planner chooses from: 32 bits gain nothing that can be told, and take many times as long."""
    return tuple(bitwidth for bitwidth in manifest.bitwidths if bitwidth != EXACT_BITWIDTH) or manifest.bitwidths


def layer_memory(store: Store, in_place: InPlace) -> dict[tuple[TemplateKind, int, int], LayerFootprint]:
    """By kind, slices and sequence."""
    return {
        (key.kind, key.slices, key.sequence): layer_footprint(
            store.template(key.kind, key.slices, key.sequence),
            store.manifest.geometry,
            in_place=key.kind is TemplateKind.INT8 and in_place(key.slices, key.sequence),
        )
        for key in store.manifest.templates
    }


def text_bytes(geometry: Geometry, sequence: int) -> int:
    """Activations of one text between layers: two hidden states and the mask."""
    return 4 * (2 * sequence * geometry.hidden + sequence)
