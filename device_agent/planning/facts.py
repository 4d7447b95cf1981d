"""All that a planner must know of a store and a device."""

from collections.abc import Mapping
from dataclasses import dataclass

from device_agent.costs import DeviceCosts
from device_agent.memory import LayerFootprint
from shard_store.geometry import Geometry
from shard_store.profile import Profile
from shard_store.template import TemplateKind

LayerKey = tuple[TemplateKind, int, int]  # kind, slices, sequence


@dataclass(frozen=True, slots=True)
class Facts:
    """One store on one device."""

    geometry: Geometry
    profile: Profile
    costs: DeviceCosts
    shard_bytes: Mapping[int, tuple[tuple[int, ...], ...]]  # by bitwidth: [layer][slice], as read from flash
    read_bytes: int  # the largest single read
    layer_memory: Mapping[LayerKey, LayerFootprint]
    fixed_bytes: int  # tensors that are held as long as the model
    agent_bytes: Mapping[tuple[TemplateKind, int], int]  # of one loading agent, by kind and slices of its layers
    text_bytes: Mapping[int, int]  # by sequence: activations of one text
    prepare_lanes: int = 1  # layers that can be prepared at the same time, beside execution: idle cores
