"""Measures a device's costs inside real passes: caches, loading agents and the system behave as they will later.

A layer that is run over and over stays in the processor's caches and seems quicker than in a pass over many layers; so
layers are never timed alone.
"""

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Protocol

from device_agent.costing.fit import fill_widths, fit_crowding, fit_prepares, fit_reads
from device_agent.costs import DeviceCosts, PrepareCost, ReadCost, kind_of
from device_agent.phases import PhaseTimes
from device_agent.plan import LayerPlan, Plan, Residency, default_bitwidth
from device_agent.planning.schedule import Work
from shard_store.errors import BudgetError
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.manifest import Manifest
from shard_store.template import TemplateKind

REPEATS = 5  # timed passes of a kind; the median counts
MAX_LAYERS = 6  # layers of a timed pass: enough to turn the caches over

Progress = Callable[[str, int, int], None]  # what is measured, steps done, steps in all


class Trials(Protocol):
    """What is needed of an engine to be measured."""

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""

    @property
    def device(self) -> str:
        """Machine, processor, runtime and threads."""

    def trial(self, plan: Plan, sequence: int, *, cold: bool = False) -> PhaseTimes:
        """One pass of one text, after a rest, as between requests. Raises BudgetError.

        cold: the store's files are dropped from the page cache first.
        """

    def read_sizes(self, layer: LayerPlan) -> tuple[int, int]:
        """How many reads fetch the layer, and how many bytes in all."""

    def resident_layers(self, plan: Plan, sequence: int) -> int:
        """How many of the plan's layers the budget holds ready to run."""

    def overhead_ms(self) -> float:
        """Time of an answer beyond its passes."""


@dataclass(frozen=True, slots=True)
class _Bench:
    """One engine, measured step by step."""

    engine: Trials
    step: Callable[[str], None]

    @property
    def manifest(self) -> Manifest:
        return self.engine.manifest

    def plan(self, bitwidth: int, slices: int, residency: Residency) -> Plan:
        depth = min(self.manifest.geometry.layers, MAX_LAYERS)
        layers = tuple(LayerPlan(layer, (bitwidth,) * slices, residency) for layer in range(depth))
        return Plan(layers)

    def fits(self, bitwidths: Sequence[int]) -> bool:
        """Whether the budget holds layers of these bitwidths, one at a time. What does not fit need not be known."""
        plan = self.plan(max(bitwidths), self.manifest.geometry.slices, Residency.STREAMED)
        try:
            self.engine.trial(plan, max(self.manifest.description.sequences))
        except BudgetError:
            return False
        return True

    def widths(self) -> tuple[int, ...]:
        slices = self.manifest.geometry.slices
        return tuple(sorted({1, max(1, slices // 3), slices}))

    def execute(self, bitwidth: int) -> dict[int, tuple[float, ...]]:
        """By sequence: milliseconds of a layer that is in memory, for each width."""
        rows = {}
        for sequence in self.manifest.description.sequences:
            self.step(f"execute {kind_of((bitwidth,)).value}, sequence {sequence}")
            measured = {width: self._execute_ms(bitwidth, width, sequence) for width in self.widths()}
            rows[sequence] = fill_widths(measured, self.manifest.geometry.slices)
        return rows

    def _execute_ms(self, bitwidth: int, width: int, sequence: int) -> float:
        plan = self.plan(bitwidth, width, Residency.RESIDENT)
        fitting = self.engine.resident_layers(plan, sequence)
        plan = Plan(plan.layers[:fitting]) if fitting else self.plan(bitwidth, width, Residency.STREAMED)
        return median(times.execute_ms for times in self._passes(plan, sequence)) / len(plan.layers)

    def loading_factor(self, bitwidth: int, alone: Sequence[float], sequence: int) -> float:
        """How much longer a layer executes while others are loaded."""
        self.step("execute while loading")
        plan = self.plan(bitwidth, len(alone), Residency.STREAMED)
        beside = median(times.execute_ms for times in self._passes(plan, sequence)) / len(plan.layers)
        return min(max(1.0, beside / alone[-1]), 100.0) if alone[-1] else 1.0

    def prepare(self, bitwidths: Sequence[int]) -> PrepareCost:
        """Decoding and packing, at every bitwidth and two widths: of what has just been read, as in every run."""
        samples = {}
        for bitwidth in bitwidths:
            self.step(f"prepare {bitwidth} bits")
            samples[bitwidth] = [(width, self._prepare_ms(bitwidth, width)) for width in self.widths()[-2:]]
        return fit_prepares(samples)

    def _prepare_ms(self, bitwidth: int, width: int) -> float:
        plan = self.plan(bitwidth, width, Residency.STREAMED)
        passes = self._passes(plan, self.manifest.description.sequences[0], cold=True)
        return median(times.prepare_ms for times in passes) / len(plan.layers)

    def crowding_factor(self, read: ReadCost, prepare: PrepareCost, execute_ms: float, loading_factor: float) -> float:
        """How much longer preparing takes while two agents work, from how long a whole pass then takes.

        Agents share cores, caches and Python's lock. 1 if the budget has no room for two layers in flight.
        execute_ms: of a full-width layer at the first sequence.
        """
        self.step("prepare beside another agent")
        one = self.plan(min(prepare.shard_ms), self.manifest.geometry.slices, Residency.STREAMED)
        two = replace(one, loading_agents=2, layers_in_flight=2)
        try:
            passes = self._passes(two, self.manifest.description.sequences[0], cold=True)
        except BudgetError:
            return 1.0
        total_ms = median(times.total_ms for times in passes)
        work = [
            Work(read.ms(*reversed(self.engine.read_sizes(layer))), prepare.ms(layer.bitwidths), execute_ms)
            for layer in two.layers
        ]
        return fit_crowding(work, loading_factor, total_ms)

    def read(self) -> ReadCost:
        """Reads of small and large layers."""
        samples = []
        slices = self.manifest.geometry.slices
        ends = {min(self.manifest.bitwidths), default_bitwidth(self.manifest)}
        for bitwidth, width in sorted({(bits, width) for bits in ends for width in (max(1, slices // 3), slices)}):
            self.step(f"read {bitwidth} bits, {width} slices")
            plan = self.plan(bitwidth, width, Residency.STREAMED)
            sequence = self.manifest.description.sequences[0]
            times = self._passes(plan, sequence, cold=True)
            sizes = [self.engine.read_sizes(layer) for layer in plan.layers]
            reads, nbytes = (sum(column) for column in zip(*sizes, strict=True))
            samples.append((reads, nbytes, median(taken.read_ms for taken in times)))
        return fit_reads(samples)

    def _passes(self, plan: Plan, sequence: int, *, cold: bool = False) -> list[PhaseTimes]:
        """Timed passes after one that is not: it learns the packing, fills the page cache, verifies checksums."""
        self.engine.trial(plan, sequence)
        return [self.engine.trial(plan, sequence, cold=cold) for _ in range(REPEATS)]


def measure_costs(engine: Trials, progress: Progress) -> DeviceCosts:
    """Measure all that a plan for this store can need; takes seconds. Raises StiError if the store cannot be run."""
    manifest = engine.manifest
    by_kind = _bitwidths_by_kind(manifest.bitwidths)
    total = len(manifest.bitwidths) + len(by_kind) * len(manifest.description.sequences) + 7
    done = 0

    def step(what: str) -> None:
        nonlocal done
        progress(what, done, total)
        done += 1

    bench = _Bench(engine, step)
    by_kind = {kind: bitwidths for kind, bitwidths in by_kind.items() if bench.fits(bitwidths)}
    if not by_kind:
        raise BudgetError(
            "memory budget: too small for any layer, so this device cannot be measured; raise --memory-mb"
        )
    prepare = {kind: bench.prepare(bitwidths) for kind, bitwidths in by_kind.items()}
    execute = {kind: bench.execute(max(bitwidths)) for kind, bitwidths in by_kind.items()}
    kind, sequence = next(iter(by_kind)), manifest.description.sequences[0]
    factor = bench.loading_factor(max(by_kind[kind]), execute[kind][sequence], sequence)
    read = bench.read()
    crowding = bench.crowding_factor(read, prepare[kind], execute[kind][sequence][-1], factor)
    step("overhead of an answer")
    costs = DeviceCosts(
        device=engine.device, model=model_digest(manifest), read=read, prepare=prepare, execute=execute,
        loading_factor=factor, pass_ms=engine.overhead_ms(), crowding_factor=crowding,
    )  # fmt: skip
    progress("measured", total, total)
    return costs


def _bitwidths_by_kind(bitwidths: Sequence[int]) -> dict[TemplateKind, tuple[int, ...]]:
    lattice = tuple(bitwidth for bitwidth in bitwidths if bitwidth != EXACT_BITWIDTH)
    kinds = {TemplateKind.INT8: lattice, TemplateKind.FLOAT32: tuple(set(bitwidths) - set(lattice))}
    return {kind: members for kind, members in kinds.items() if members}


def model_digest(manifest: Manifest) -> str:
    """Names all models whose layers cost the same: sizes, bitwidths and sequences."""
    sizes = (manifest.geometry, manifest.bitwidths, manifest.description.sequences)
    return sha256(repr(sizes).encode()).hexdigest()[:16]


def device_name(runtime: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Machine, processor and what else decides how long a layer takes."""
    try:
        lines = cpuinfo.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    fields = (line.partition(":") for line in lines)
    models = [value.strip() for name, _, value in fields if name.strip() in {"model name", "Hardware", "Processor"}]
    processor = next(iter(models), platform.processor() or "unknown processor")
    return f"{platform.machine()}, {processor}, {os.cpu_count()} cores, {runtime}"
