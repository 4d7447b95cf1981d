"""What a run executes: which layers, slices and bitwidths, and where each layer's weights wait.

Both papers are points in this space: STI leaves the bitwidths free under a latency target, PIPELOAD fixes full width
and fidelity and frees each layer after use.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from shard_store.errors import PlanError
from shard_store.geometry import BITWIDTHS, EXACT_BITWIDTH, ShardKey
from shard_store.manifest import Manifest
from shard_store.template import TemplateKind

PLAN_VERSION = 1
MAX_LOADING_AGENTS = 16
MAX_PLAN_BYTES = 1 << 20


class Residency(str, Enum):
    """Where a layer's weights are between two runs."""

    STREAMED = "streamed"  # on flash: read and prepared in every run
    PRELOADED = "preloaded"  # in memory as stored: prepared in every run, never read again
    RESIDENT = "resident"  # in memory ready to run


class Schedule(str, Enum):
    """When layers are loaded and freed. The answers are the same; time and memory are not."""

    PIPELINED = "pipelined"  # loaded ahead while others execute, each freed after its use (PIPELOAD)
    FREE_LAST = "free_last"  # loaded ahead while others execute, nothing freed before the end (PipeSwitch)
    LOAD_FIRST = "load_first"  # all loaded, then all executed, then all freed


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer of a run: the bitwidth of each of its first slices. Without a residency, the memory budget decides."""

    layer: int
    bitwidths: tuple[int, ...]
    residency: Residency | None = None

    @property
    def kind(self) -> TemplateKind:
        """The template that runs this layer: exact shards need floats, all others share the int8 lattice."""
        return TemplateKind.FLOAT32 if EXACT_BITWIDTH in self.bitwidths else TemplateKind.INT8

    def shards(self) -> tuple[ShardKey, ...]:
        """The shards to read, by slice."""
        return tuple(ShardKey(self.layer, index, bitwidth) for index, bitwidth in enumerate(self.bitwidths))


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. `layers_in_flight` counts streamed layers that are loading, loaded or executing at one time.

    It bounds the pipelined schedule only: the others hold every layer before the first is freed.
    """

    layers: tuple[LayerPlan, ...]
    loading_agents: int = 1
    layers_in_flight: int = 2
    schedule: Schedule = Schedule.PIPELINED

    def __post_init__(self) -> None:
        if not self.layers:
            raise PlanError("plan: no layers; name at least one")
        indices = [layer.layer for layer in self.layers]
        if indices != sorted(set(indices)):
            raise PlanError(f"plan: layers {indices} must ascend without repetition")
        if len({len(layer.bitwidths) for layer in self.layers}) != 1 or not self.slices:
            raise PlanError("plan: every layer must list one bitwidth for each of the same number of slices")
        for layer in self.layers:
            if unknown := set(layer.bitwidths) - set(BITWIDTHS):
                raise PlanError(f"plan: layer {layer.layer} asks for {min(unknown)} bits, not {_listed(BITWIDTHS)}")
            if EXACT_BITWIDTH in layer.bitwidths and len(set(layer.bitwidths)) > 1:
                raise PlanError(f"plan: layer {layer.layer} mixes 32 bits with others; use one or the other")
        if not 1 <= self.loading_agents <= MAX_LOADING_AGENTS:
            raise PlanError(f"plan: {self.loading_agents} loading agents, must be 1 to {MAX_LOADING_AGENTS}")
        if self.layers_in_flight < 1:
            raise PlanError(f"plan: {self.layers_in_flight} layers in flight, must be at least 1")

    @property
    def slices(self) -> int:
        """Slices of every layer."""
        return len(self.layers[0].bitwidths)

    @property
    def is_open(self) -> bool:
        """Whether who stays is left to the memory budget."""
        return self.schedule is Schedule.PIPELINED and all(layer.residency is None for layer in self.layers)

    @property
    def passing(self) -> int:
        """How many layers are freed in or after every run."""
        return sum(layer.residency is not Residency.RESIDENT for layer in self.layers)

    @property
    def most_in_flight(self) -> int:
        """The most layers that are loading, loaded, executing or waiting to be freed at one time."""
        return min(self.layers_in_flight, self.passing) if self.schedule is Schedule.PIPELINED else self.passing

    @property
    def bitwidths(self) -> tuple[int, ...]:
        """The distinct bitwidths in use."""
        return tuple(sorted({bitwidth for layer in self.layers for bitwidth in layer.bitwidths}))

    def with_residency(self, residency: Sequence[Residency | None]) -> "Plan":
        """The same run with another residency for each layer."""
        layers = (replace(layer, residency=choice) for layer, choice in zip(self.layers, residency, strict=True))
        return replace(self, layers=tuple(layers))

    def check(self, manifest: Manifest) -> None:
        """Raise PlanError unless the store has all that the plan asks for."""
        geometry = manifest.geometry
        for layer in self.layers:
            if not 0 <= layer.layer < geometry.layers:
                raise PlanError(f"plan: layer {layer.layer} asked, the store has layers 0 to {geometry.layers - 1}")
        if self.slices > geometry.slices:
            raise PlanError(f"plan: {self.slices} slices asked, the store has {geometry.slices}")
        if missing := set(self.bitwidths) - set(manifest.bitwidths):
            raise PlanError(f"plan: the store has no {min(missing)}-bit shards, only {_listed(manifest.bitwidths)}")


def uniform_plan(
    manifest: Manifest,
    bitwidth: int,
    layers: int | None = None,
    slices: int | None = None,
    *,
    loading_agents: int = 1,
    layers_in_flight: int = 2,
) -> Plan:
    """The first `layers` layers and `slices` slices (default all) at one bitwidth, checked against the store."""
    depth = manifest.geometry.layers if layers is None else layers
    width = manifest.geometry.slices if slices is None else slices
    if not 1 <= depth <= manifest.geometry.layers:
        raise PlanError(f"plan: {depth} layers asked, the store has 1 to {manifest.geometry.layers}")
    if not 1 <= width <= manifest.geometry.slices:
        raise PlanError(f"plan: {width} slices asked, the store has 1 to {manifest.geometry.slices}")
    plan = Plan(
        tuple(LayerPlan(index, (bitwidth,) * width) for index in range(depth)), loading_agents, layers_in_flight
    )
    plan.check(manifest)
    return plan


def default_bitwidth(manifest: Manifest) -> int:
    """8 bits are free of loss and quickest to prepare; else the highest on the lattice; else exact."""
    lattice = [bitwidth for bitwidth in manifest.bitwidths if bitwidth != EXACT_BITWIDTH]
    return max(lattice) if lattice else EXACT_BITWIDTH


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan as JSON values, see docs/plan.md."""
    return {"version": PLAN_VERSION, **asdict(plan)}


def plan_to_json(plan: Plan) -> str:
    """The plan as a file."""
    return json.dumps(plan_document(plan), indent=1)


def read_plan(path: Path) -> Plan:
    """Read a plan file. Raises PlanError with one line that says what is wrong."""
    try:
        if path.stat().st_size > MAX_PLAN_BYTES:
            raise PlanError(f"plan {path}: larger than {MAX_PLAN_BYTES} bytes")
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlanError(f"plan {path}: cannot be read: {error}") from error
    return parse_plan(document)


def parse_plan(document: object) -> Plan:
    """Build a plan from parsed JSON; unknown keys and wrong types are refused."""
    fields = _object(document, "plan", {"version", "layers", "loading_agents", "layers_in_flight", "schedule"})
    if (version := _integer(fields.get("version"), "version")) != PLAN_VERSION:
        raise PlanError(f"plan: version {version}, this agent knows {PLAN_VERSION}")
    layers = fields.get("layers")
    if not isinstance(layers, list):
        raise PlanError("plan: 'layers' must be a list")
    return Plan(
        tuple(_parse_layer(entry, index) for index, entry in enumerate(layers)),
        _integer(fields.get("loading_agents", 1), "loading_agents"),
        _integer(fields.get("layers_in_flight", 2), "layers_in_flight"),
        _parse_schedule(fields.get("schedule", Schedule.PIPELINED.value)),
    )


def _parse_schedule(value: object) -> Schedule:
    try:
        return Schedule(value)
    except ValueError as error:
        known = ", ".join(choice.value for choice in Schedule)
        raise PlanError(f"plan: schedule is {value!r}, must be one of {known}") from error


def _parse_layer(entry: object, index: int) -> LayerPlan:
    where = f"layers[{index}]"
    fields = _object(entry, where, {"layer", "bitwidths", "residency"})
    bitwidths = fields.get("bitwidths")
    if not isinstance(bitwidths, list):
        raise PlanError(f"plan: {where}.bitwidths must be a list of numbers")
    choice = fields.get("residency")
    try:
        residency = None if choice is None else Residency(choice)
    except ValueError as error:
        known = ", ".join(choice.value for choice in Residency)
        raise PlanError(f"plan: {where}.residency is {choice!r}, must be one of {known}") from error
    widths = tuple(_integer(bitwidth, f"{where}.bitwidths") for bitwidth in bitwidths)
    return LayerPlan(_integer(fields.get("layer"), f"{where}.layer"), widths, residency)


def _object(value: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"plan: {where} must be an object")
    if unknown := sorted(set(value) - known):
        raise PlanError(f"plan: unknown key {unknown[0]!r} in {where}; known are {', '.join(sorted(known))}")
    return value


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise PlanError(f"plan: {where} is {value!r}, must be a whole number")
    return value


def _listed(bitwidths: Sequence[int]) -> str:
    return ", ".join(str(bitwidth) for bitwidth in bitwidths)
