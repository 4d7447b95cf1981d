"""Tables of a bench."""

from pathlib import Path

from rich.table import Table

from host.bench.results import BenchResult, Row
from host.bench.verdict import Predictions, Verdict, verdict_of
from host.display import MIB, out


def print_result(result: BenchResult, folder: Path) -> None:
    """One row per cell, then what they add up to."""
    table = Table(
        "flash MB/s", "cpu %", "target ms", "method", "plan", "accuracy", "predicted ms", "cold p50", "p95",
        "warm p50", "met", "peak MiB",
        title=f"{result.model}, sequence {result.sequence}, STI in {result.memory_bytes / MIB:.1f} MiB",
    )  # fmt: skip
    for row in result.rows:
        table.add_row(*_cells(row))
    out().print(table)
    print_verdict(verdict_of(result.rows))
    out().print(f"written to {folder}")


def _cells(row: Row) -> list[str]:
    return [
        f"{row.flash_mb_s:g}", f"{row.cpu_percent:g}", f"{row.target_ms:g}", row.method,
        f"{row.layers} x {row.slices}, {row.mean_bits:g} bits",
        "" if row.accuracy is None else f"{row.accuracy:.1f}",
        f"{row.predicted_ms:.1f}", f"{row.cold_p50_ms:.1f}", f"{row.cold_p95_ms:.1f}", f"{row.warm_p50_ms:.1f}",
        f"{row.met_share:.0%}", f"{row.model_peak_mib:.1f}",
    ]  # fmt: skip


def print_verdict(verdict: Verdict) -> None:
    """What a reader looks for first."""
    lines = [
        f"mean gain over the best that does not preload, where IO binds: {_points(verdict.mean_gain_io_binds)}",
        f"the same where it binds even at 8 bits: {_points(verdict.mean_gain_io_binds_8)}",
        f"predictions of STI: {_predictions(verdict.sti)}",
        f"predictions of all methods: {_predictions(verdict.all_methods)}",
    ]
    for item in verdict.comparisons:
        place = f"flash {item.flash_mb_s:g} MB/s, processor {item.cpu_percent:g} %, target {item.target_ms:g} ms"
        lines += [f"{place}: {failure}" for failure in item.failures]
    for line in lines:
        out().print(line, soft_wrap=True)


def _points(value: float | None) -> str:
    return "no such cell" if value is None else f"{value:+.2f} points"


def _predictions(found: Predictions) -> str:
    kept = "none promised" if found.kept_share is None else f"{found.kept_share:.1%} of {found.promised_runs} kept"
    return (
        f"median error {found.median_error:.1%}, targets {kept}, predicted by measured peak "
        f"{found.lowest_peak_ratio:.3f} to {found.highest_peak_ratio:.3f}"
    )
