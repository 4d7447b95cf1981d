"""What a plan costs in memory, before anything is allocated.

A budget covers all that the model costs: resident tensors, stored shards, packed layers, loading buffers, activations.
It does not cover the idle agent itself (Python, the runtime's code, the HTTP server).
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Condition

from device_agent.plan import LayerPlan, Plan, Residency, Schedule
from shard_store.errors import BudgetError
from shard_store.geometry import Geometry
from shard_store.template import Template, TemplateKind

MIB = 1 << 20
RUNNING_BYTES = 3 * MIB  # beyond the idle agent, whatever runs: heaps, stacks, page tables
_CHANNEL_TILE = 64  # output channels are packed in tiles; the widest that XNNPACK's kernels use
_CHANNEL_BYTES = 12  # packed beside each channel: bias, scale, sum of the weights
_COMPILED_BYTES = 256 << 10  # graph, plans and operators of a compiled layer


@dataclass(frozen=True, slots=True)
class LayerFootprint:
    """Memory of one layer at one width and sequence length."""

    ready_bytes: int  # from compiled to freed: packed weights, constants, arena
    loading_bytes: int  # on top while it is loaded: the unpacked weights
    in_place: bool = False  # if it passes, nothing is unpacked: its weights are written where they are used

    def on_top(self, residency: Residency | None) -> int:
        """What loading takes besides the layer itself."""
        return 0 if self.in_place and residency is not Residency.RESIDENT else self.loading_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of one run."""

    fixed_bytes: int  # tensors that are held as long as the model
    activation_bytes: int  # hidden states and masks of the batch
    agent_bytes: int  # one loading agent's read buffer and decoding scratch
    layers: tuple[LayerFootprint, ...]
    stored_bytes: tuple[int, ...]  # each layer's shards as stored

    def peak_bytes(self, plan: Plan, there: Container[int] = ()) -> int:
        """The most that the run can hold at one time. there: the layers that are in memory already."""
        resident = sum(c.ready_bytes for p, c in self._with(plan) if p.residency is Residency.RESIDENT)
        stored = zip(plan.layers, self.stored_bytes, strict=True)
        preloaded = sum(nbytes for layer, nbytes in stored if layer.residency is Residency.PRELOADED)
        return self.base_bytes(plan) + resident + preloaded + self._most_passing(plan, there)

    def _most_passing(self, plan: Plan, there: Container[int]) -> int:
        """The most that layers on their way take. Frames that wait for layers are held while a resident one loads."""
        ready = _largest_first(c.ready_bytes for p, c in self._with(plan) if p.residency is not Residency.RESIDENT)
        on_top = _largest_first(
            0 if p.residency is Residency.RESIDENT and p.layer in there else c.on_top(p.residency)
            for p, c in self._with(plan)
        )
        places = plan.layers_in_flight if plan.schedule is Schedule.PIPELINED else len(plan.layers)
        if places == 1:  # learning how to pack leaves no trace where two layers have room, or a read buffer
            on_top = [max(nbytes, self._learning_bytes(plan)) for nbytes in on_top]
        return sum(ready[:places]) + sum(on_top[: min(plan.loading_agents, places)])

    def _learning_bytes(self, plan: Plan) -> int:
        """What learning takes on top of one layer, before any buffer is in use."""
        learning = [c.loading_bytes for _, c in self._with(plan) if c.in_place]
        return max(0, max(learning, default=0) - self.agent_bytes)

    def base_bytes(self, plan: Plan) -> int:
        """What is needed whatever the residency."""
        return self.fixed_bytes + self.activation_bytes + self.crew_bytes(plan)

    def crew_bytes(self, plan: Plan) -> int:
        """Read buffers and scratch of all loading agents."""
        return self.agent_bytes * plan.loading_agents

    def _with(self, plan: Plan) -> list[tuple[LayerPlan, LayerFootprint]]:
        return list(zip(plan.layers, self.layers, strict=True))


def layer_footprint(template: Template, geometry: Geometry, *, in_place: bool = False) -> LayerFootprint:
    """Bytes of a compiled layer: an upper estimate, checked against measurements in the tests."""
    item_bytes = 1 if template.kind is TemplateKind.INT8 else 4
    packed = 0
    for matrix in geometry.slice_matrices:
        columns = template.slots[f"{matrix.name}.weight"].nbytes // item_bytes
        rows = template.slots[f"{matrix.name}.bias"].nbytes // 4
        packed += _rounded(rows, _CHANNEL_TILE) * (columns // rows * item_bytes + _CHANNEL_BYTES)
    weights_start = min(template.slots[f"{matrix.name}.weight"].offset for matrix in geometry.slice_matrices)
    arena = _arena_bytes(geometry, template.slices, template.sequence)
    return LayerFootprint(
        packed + weights_start + arena + _COMPILED_BYTES, template.model_bytes - weights_start, in_place
    )


def _arena_bytes(geometry: Geometry, slices: int, sequence: int) -> int:
    """Intermediate tensors of a layer: the widest moment is either the attention scores or the FFN.

    Attention holds the scores, Q, K, V and its output; the FFN its neurons, as int8 too, and two hidden states.
    """
    attention, ffn = geometry.slice_attention * slices, geometry.slice_ffn * slices
    heads = geometry.heads // geometry.slices * slices
    if geometry.spec.causal or geometry.spec.gated:  # causal layers attend outside
        inner = (3 if geometry.spec.gated else 2) * sequence * ffn
        return 4 * (max(4 * sequence * attention, inner) + 4 * sequence * geometry.hidden)
    scores = heads * sequence * sequence + 4 * sequence * attention
    widest = 4 * max(scores, sequence * ffn * 5 // 4 + 2 * sequence * geometry.hidden)
    return widest * 9 // 8  # runtimes differ in what they place side by side


def fit_residency(plan: Plan, footprint: Footprint, budget_bytes: int) -> Plan:
    """Make undecided layers resident, from the bottom up for as long as the budget holds, and stream the others.

    Bottom first, because the first layers are needed before anything else can have been loaded (STI, section 5.3), and
    a fixed set, because a cyclic visit defeats any least-recently-used order. Where not even streaming fits, fewer
    layers are in flight; raises BudgetError if one alone is too many.
    """
    residency = [layer.residency or Residency.STREAMED for layer in plan.layers]
    plan, undecided = plan.with_residency(residency), [layer.residency is None for layer in plan.layers]
    while footprint.peak_bytes(plan) > budget_bytes and plan.layers_in_flight > 1:
        in_flight = plan.layers_in_flight - 1
        plan = replace(plan, layers_in_flight=in_flight, loading_agents=min(plan.loading_agents, in_flight))
    check_budget(plan, footprint, budget_bytes)
    for index in [index for index, free in enumerate(undecided) if free]:
        residency[index] = Residency.RESIDENT
        trial = plan.with_residency(residency)
        if footprint.peak_bytes(trial) > budget_bytes:
            break
        plan = trial
    return plan


def check_budget(plan: Plan, footprint: Footprint, budget_bytes: int) -> None:
    """Raise BudgetError, with the numbers, unless the plan fits."""
    if (needed := footprint.peak_bytes(plan)) > budget_bytes:
        raise BudgetError(
            f"memory budget {budget_bytes / MIB:.1f} MiB is too small: this plan needs {needed / MIB:.1f} MiB "
            f"({footprint.base_bytes(plan) / MIB:.1f} fixed, the rest layers); raise --memory-mb or use fewer slices"
        )


class Ledger:
    """Counts what the model holds now and held at most; loading agents and the inference agent share it."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.held_bytes = 0
        self.peak_bytes = 0

    def add(self, nbytes: int) -> None:
        """Take note of bytes taken (or, negative, given back)."""
        with self.changed:
            self.held_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
            if nbytes < 0:
                self.changed.notify_all()

    @contextmanager
    def holding(self, nbytes: int) -> Iterator[None]:
        """Count bytes that are held inside only."""
        self.add(nbytes)
        try:
            yield
        finally:
            self.add(-nbytes)

    def restart(self) -> None:
        """Begin a new peak at what is held now."""
        with self.changed:
            self.peak_bytes = self.held_bytes


def _largest_first(sizes: Iterable[int]) -> list[int]:
    return sorted(sizes, reverse=True)


def _rounded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
