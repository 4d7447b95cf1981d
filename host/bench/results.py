"""One row per cell, and the files that hold them: CSV and JSON."""

import csv
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from device_agent.planning.facts import Facts
from host.bench.baselines import plan_baseline, predicted_ms, submodel
from host.bench.methods import Method, MethodKind
from host.bench.options import BenchOptions
from host.bench.records import AccuracyRecord, CellRecord, Sample, WarmRecord, answers_key, plan_key

MIB = 1 << 20
_PACKAGES = ("sti", "numpy", "ai-edge-litert", "tokenizers")


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one target in one setting. Latencies in ms; shares from 0 to 1; accuracy in percent."""

    model: str
    sequence: int
    flash_mb_s: float
    cpu_percent: float
    kernel_flash: bool  # whether the kernel throttled reads, too
    target_ms: float
    method: str
    layers: int
    slices: int
    bits: str
    mean_bits: float
    resident_layers: int
    accuracy: float | None
    predicted_loss: float
    runs: int
    plan_share: float  # of the runs, that ran this plan
    predicted_ms: float
    cold_p50_ms: float
    cold_p95_ms: float
    warm_p50_ms: float
    warm_p95_ms: float
    predicted_met: bool
    met_share: float
    promised_runs: int  # that were predicted to keep the target
    kept_runs: int  # of those, that did
    prediction_error: float  # median of |predicted - measured| / measured
    wait_ms: float
    predicted_peak_mib: float
    model_peak_mib: float
    process_growth_mib: float
    io_binds: bool  # all weights of the submodel that could compute in time cannot be read in time at full precision
    io_binds_8: bool  # nor at the best bitwidth on the lattice
    whole_computes: bool  # the whole model at full precision could compute in time
    reason: str | None


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what the bench ran."""

    machine: str
    processor: str
    cores: int
    load: tuple[float, float, float]  # of the machine when the bench began: 1, 5 and 15 minutes
    system: str
    python: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All rows, and what they were measured with."""

    model: str
    sequence: int
    texts: int
    environment: Environment
    options: BenchOptions
    memory_bytes: int  # that STI could take
    whole_model_bytes: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is possible at one target."""

    io_binds: bool
    io_binds_8: bool
    whole_computes: bool


def conditions(facts: Facts, target_ms: float, sequence: int) -> Conditions:
    """From forecasts: what could compute in time if it were in memory, and be loaded in time if it were not."""
    best = max(facts.shard_bytes)
    lattice = max((bits for bits in facts.shard_bytes if bits <= 8), default=best)
    depth, slices = facts.geometry.layers, facts.geometry.slices
    whole = submodel(facts, Method(MethodKind.PRELOAD_MODEL, best), depth, slices)
    return Conditions(
        io_binds=_binds(facts, best, target_ms, sequence),
        io_binds_8=_binds(facts, lattice, target_ms, sequence),
        whole_computes=predicted_ms(facts, whole, sequence) <= target_ms,
    )


def _binds(facts: Facts, bits: int, target_ms: float, sequence: int) -> bool:
    """Whether some submodel computes in time, and a better one than any that can also be streamed."""

    def least_loss(kind: MethodKind) -> float:
        found = plan_baseline(facts, Method(kind, bits), target_ms, sequence)
        return found.predicted_loss if found.fits else np.inf

    return least_loss(MethodKind.PRELOAD_MODEL) < least_loss(MethodKind.STD_PIPELINE)


def row_of(
    cell: CellRecord, model: str, sequence: int, *, facts: Facts,
    warm: Mapping[tuple[float, str], WarmRecord], accuracies: Mapping[str, AccuracyRecord],
) -> Row:  # fmt: skip
    """Sum a cell up."""
    plan, samples = cell.main_plan, cell.samples
    promised = [sample for sample in samples if sample.predicted_ms <= cell.target_ms]
    shown = conditions(facts, cell.target_ms, sequence)
    measured = [sample.measured_ms for sample in samples]
    warm_ms = warm[cell.setting.cpu_percent, plan_key(plan)].measured_ms
    found = accuracies.get(answers_key(plan))
    bits = [bitwidth for layer in plan.layers for bitwidth in layer.bitwidths]
    return Row(
        model=model,
        sequence=sequence,
        flash_mb_s=cell.setting.flash_mb_s,
        cpu_percent=cell.setting.cpu_percent,
        kernel_flash=cell.limits.read_bytes_per_s is not None,
        target_ms=cell.target_ms,
        method=cell.method.name,
        layers=len(plan.layers),
        slices=plan.slices,
        bits=" ".join(map(str, plan.bitwidths)),
        mean_bits=round(float(np.mean(bits)), 2),
        resident_layers=len(plan.layers) - plan.passing,
        accuracy=None if found is None else round(found.percent, 2),
        predicted_loss=cell.predicted_loss,
        runs=len(samples),
        plan_share=sum(cell.plans[sample.plan] == plan for sample in samples) / len(samples),
        predicted_ms=_percentile([sample.predicted_ms for sample in samples], 50),
        cold_p50_ms=_percentile(measured, 50),
        cold_p95_ms=_percentile(measured, 95),
        warm_p50_ms=_percentile(warm_ms, 50),
        warm_p95_ms=_percentile(warm_ms, 95),
        predicted_met=len(promised) == len(samples),
        promised_runs=len(promised),
        kept_runs=sum(sample.measured_ms <= cell.target_ms for sample in promised),
        prediction_error=_percentile([_error(sample) for sample in samples], 50),
        met_share=sum(ms <= cell.target_ms for ms in measured) / len(measured),
        wait_ms=_percentile([sample.wait_ms for sample in samples], 50),
        predicted_peak_mib=max(sample.predicted_peak_bytes for sample in samples) / MIB,
        model_peak_mib=max(sample.model_peak_bytes for sample in samples) / MIB,
        process_growth_mib=max(sample.process_growth_bytes for sample in samples) / MIB,
        io_binds=shown.io_binds,
        io_binds_8=shown.io_binds_8,
        whole_computes=shown.whole_computes,
        reason=cell.reason,
    )


def _error(sample: Sample) -> float:
    return abs(sample.predicted_ms - sample.measured_ms) / sample.measured_ms


def _percentile(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 3)


def environment() -> Environment:
    """This machine now."""
    return Environment(
        machine=platform.machine(),
        processor=_processor(Path("/proc/cpuinfo")),
        cores=os.cpu_count() or 1,
        load=os.getloadavg(),
        system=platform.platform(),
        python=sys.version.split()[0],
        packages={name: _version(name) for name in _PACKAGES},
    )


def _processor(cpuinfo: Path) -> str:
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """One line per row, with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [field.name for field in fields(Row)]
        writer.writerow(names)
        writer.writerows([getattr(row, name) for name in names] for row in rows)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """One object."""
    path.write_text(json.dumps(document, indent=1, default=_plain) + "\n", "utf-8")


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else str(value)


def document_of(result: BenchResult) -> dict[str, object]:
    """The result as JSON values."""
    return asdict(result)
