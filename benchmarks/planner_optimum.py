"""The optimum of a planning question, by mixed-integer programming (HiGHS): what the planner is measured against.

One program for every depth, width, number of layers in flight, loading agents and layers that stay. Bitwidths are
binary variables, ends of reads, loads and executions continuous ones. Exact for facts without a loading factor, with
one preparing lane, and with as many reads for every choice of bitwidths (no latency, or one shard to a read).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from device_agent.plan import LayerPlan, Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.facts import Facts
from device_agent.planning.memory_use import predicted_peak_bytes
from shard_store.geometry import EXACT_BITWIDTH

_MOST_AGENTS = 2
_MOST_IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class _Structure:
    """All of a plan but the bitwidths of its streamed layers."""

    layers: tuple[int, ...]
    slices: int
    bitwidths: tuple[int, ...]
    resident: int
    agents: int
    in_flight: int
    least_loss: float


@dataclass(slots=True)
class _Program:
    """Rows of a mixed-integer program, as they are found."""

    columns: int
    rows: list[npt.NDArray[np.float64]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, terms: dict[int, float], low: float, high: float = math.inf) -> None:
        row = np.zeros(self.columns)
        for column, factor in terms.items():
            row[column] += factor
        self.rows.append(row)
        self.low.append(low)
        self.high.append(high)


def least_loss(facts: Facts, ask: Ask) -> float:
    """The least predicted loss of any plan that keeps target and budget; infinite if none does."""
    best = math.inf
    for structure in sorted(_structures(facts, ask), key=lambda structure: structure.least_loss):
        if structure.least_loss >= best:
            break
        best = min(best, _solve(facts, ask, structure))
    return best


def _structures(facts: Facts, ask: Ask) -> Iterator[_Structure]:
    lattice = tuple(sorted(b for b in facts.shard_bytes if b != EXACT_BITWIDTH))
    for bitwidths in [kind for kind in (lattice, (EXACT_BITWIDTH,)) if set(kind) & set(facts.shard_bytes)]:
        for layers in facts.profile.layer_choices:
            for slices in range(1, facts.geometry.slices + 1):
                least = _least(facts, layers, slices, bitwidths)
                for in_flight in range(1, min(_MOST_IN_FLIGHT, len(layers)) + 1):
                    for agents in range(1, min(_MOST_AGENTS, in_flight) + 1):
                        for resident in range(len(layers) + 1 if ask.residency else 1):
                            s = _Structure(layers, slices, bitwidths, resident, agents, in_flight, least)
                            if predicted_peak_bytes(facts, _plan(s), ask.sequence, ask.texts) <= ask.budget_bytes:
                                yield s


def _plan(structure: _Structure) -> Plan:
    kept = [Residency.RESIDENT] * structure.resident + [Residency.STREAMED] * len(structure.layers)
    uniform = (structure.bitwidths[0],) * structure.slices
    layers = tuple(LayerPlan(layer, uniform, where) for layer, where in zip(structure.layers, kept, strict=False))
    return Plan(layers, structure.agents, structure.in_flight)


def _least(facts: Facts, layers: tuple[int, ...], slices: int, bitwidths: tuple[int, ...]) -> float:
    losses = facts.profile.shard_loss
    best = (min(losses[b][layer][index] for b in bitwidths) for layer in layers for index in range(slices))
    return facts.profile.submodel_loss[len(layers) - 1][slices - 1] + sum(best)


def _solve(facts: Facts, ask: Ask, s: _Structure) -> float:
    """Least loss of a structure. Columns: one per streamed shard and bitwidth, then read, load and execution ends."""
    streamed = s.layers[s.resident :]
    width, count = len(s.bitwidths), len(streamed)
    binary = count * s.slices * width
    program = _Program(binary + 3 * count)
    kind_costs = facts.costs.prepare[LayerPlan(0, s.bitwidths[:1]).kind]
    execute_ms = (
        facts.costs.execute_ms(LayerPlan(0, s.bitwidths[:1]).kind, s.slices, ask.sequence, loading=False) * ask.texts
    )
    limit_ms = (ask.target_ms or 1e9) - facts.costs.pass_ms
    resident_ms = s.resident * execute_ms
    if not count:
        return s.least_loss if resident_ms <= limit_ms else math.inf
    reads = 1 if facts.read_bytes > 1 else s.slices
    loss = np.zeros(program.columns)
    for k, layer in enumerate(streamed):
        read, load, executed = (binary + part * count + k for part in range(3))
        columns = range(k * s.slices * width, (k + 1) * s.slices * width)
        shards = [(index, b) for index in range(s.slices) for b in s.bitwidths]
        for index in range(s.slices):
            program.add(dict.fromkeys(columns[index * width : (index + 1) * width], 1.0), 1.0, 1.0)
        transfer, prepare = {}, {}
        for column, (index, b) in zip(columns, shards, strict=True):
            loss[column] = facts.profile.shard_loss[b][layer][index]
            transfer[column] = -facts.shard_bytes[b][layer][index] / facts.costs.read.bytes_per_ms
            prepare[column] = -kind_costs.shard_ms[b]
        latency_ms = reads * facts.costs.read.latency_ms
        waits = (
            [read - 1] * (k >= 1) + [load - s.agents] * (k >= s.agents) + [executed - s.in_flight] * (k >= s.in_flight)
        )
        program.add({read: 1.0, **transfer}, latency_ms)
        for end in waits:  # for the flash, an agent, a place in flight
            program.add({read: 1.0, end: -1.0, **transfer}, latency_ms)
        program.add({load: 1.0, read: -1.0, **prepare}, kind_costs.layer_ms)
        if k:
            program.add({load: 1.0, load - 1: -1.0, **prepare}, kind_costs.layer_ms)
            program.add({executed: 1.0, executed - 1: -1.0}, execute_ms)
        program.add({executed: 1.0, load: -1.0}, execute_ms)
        program.add({executed: 1.0}, resident_ms + execute_ms)
    program.add({program.columns - 1: 1.0}, 0.0, limit_ms)
    upper = np.full(program.columns, math.inf)
    upper[:binary] = 1.0
    integral = np.zeros(program.columns)
    integral[:binary] = 1
    found = milp(
        loss, integrality=integral, bounds=Bounds(np.zeros(program.columns), upper),
        constraints=LinearConstraint(np.array(program.rows), program.low, program.high),
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    if not found.success:
        return math.inf
    kept = sum(
        min(facts.profile.shard_loss[b][layer][index] for b in s.bitwidths)
        for layer in s.layers[: s.resident] for index in range(s.slices)
    )  # fmt: skip
    return facts.profile.submodel_loss[len(s.layers) - 1][s.slices - 1] + kept + float(found.fun)
