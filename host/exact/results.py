"""Results of measured cells: kept in a file as they come, so that a run that was stopped goes on where it was."""

import csv
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from host.exact.cells import PIPESWITCH_FP32, PIPESWITCH_INT8
from host.exact.measure import Measured
from shard_store.errors import FormatError

_PACKAGES = ("ai-edge-litert", "numpy", "sti")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One way beside the two PipeSwitch baselines on the same flash."""

    measured: Measured
    faster_than_fp32: float | None  # how many times
    memory_saved_fp32: float | None  # share
    faster_than_int8: float | None
    memory_saved_int8: float | None
    of_bound: float | None  # how many times the time that the flash alone needs


def compare(results: Sequence[Measured]) -> list[Comparison]:
    """Ratios of every result to the baselines of its model, sequence and flash."""
    return [_compare(result, results) for result in results]


def _compare(result: Measured, results: Sequence[Measured]) -> Comparison:
    def beside(way: str) -> tuple[float | None, float | None]:
        same = (result.subject, result.sequence, result.flash, way)
        base = next((r for r in results if (r.subject, r.sequence, r.flash, r.way) == same), None)
        if base is None:
            return None, None
        return base.total_ms / result.total_ms, 1 - result.peak_bytes / base.peak_bytes

    bound = result.bound_ms
    return Comparison(
        result, *beside(PIPESWITCH_FP32.name), *beside(PIPESWITCH_INT8.name),
        of_bound=result.total_ms / bound if bound else None,
    )  # fmt: skip


def read_results(path: Path) -> dict[str, Measured]:
    """What an earlier run left, by key; nothing if there is no file. Raises FormatError for a file of another kind."""
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
        return {entry["key"]: Measured(**entry) for entry in document["results"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not results of this version ({error}); move it away or start with --fresh"
        ) from error


def write_results(path: Path, results: Iterable[Measured], configuration: dict[str, object]) -> None:
    """Write all results with versions and configuration, whole or not at all."""
    document = {
        "configuration": configuration,
        "environment": environment(),
        "results": [asdict(result) for result in results],
    }
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(document, indent=1), "utf-8")
    temporary.replace(path)


def write_csv(path: Path, comparisons: Sequence[Comparison]) -> None:
    """One row for each cell."""
    names = [field.name for field in fields(Measured)]
    ratios = [field.name for field in fields(Comparison) if field.name != "measured"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "bound_ms", *ratios])
        for comparison in comparisons:
            row = asdict(comparison.measured)
            own = (getattr(comparison, name) for name in ratios)
            writer.writerow([*(row[name] for name in names), comparison.measured.bound_ms, *own])


def environment() -> dict[str, object]:
    """Versions and machine, for whoever reads the numbers later."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": sys.version.split()[0], "system": platform.system(), "kernel": platform.release(),
        "machine": platform.machine(), "cores": os.cpu_count(), "packages": versions,
    }  # fmt: skip
