"""The table of a comparison."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from host.exact.measure import Measured
from host.exact.results import Comparison

MIB = 1 << 20


def print_comparison(console: Console, comparisons: Sequence[Comparison]) -> None:
    """A row for each cell: latency, memory, both beside PipeSwitch, and how near the flash's own time it is."""
    table = Table(
        "model", "flash", "way", "cap", "agents", "kept", "ms", "memory", "faster (32)", "saved (32)", "faster (8)",
        "saved (8)", "flash bound", "x bound",
    )  # fmt: skip
    for comparison in comparisons:
        result, bound = comparison.measured, comparison.measured.bound_ms
        table.add_row(
            f"{result.subject} {result.sequence}", result.flash, result.way,
            "" if result.cap_bytes is None else f"{result.cap_bytes / MIB:.0f}", str(result.agents), _kept(result),
            f"{result.total_ms:.0f}", f"{result.peak_bytes / MIB:.1f}",
            _times(comparison.faster_than_fp32), _share(comparison.memory_saved_fp32),
            _times(comparison.faster_than_int8), _share(comparison.memory_saved_int8),
            "" if bound is None else f"{bound:.0f}", _times(comparison.of_bound),
        )  # fmt: skip
    console.print(table)
    console.print(
        "cap: MiB. kept: layers that stay between requests (s: as stored). ms: median request. memory: MiB over the "
        "idle agent, as the kernel counts."
    )


def _kept(result: Measured) -> str:
    kind = "s" if result.preloaded_layers else ""  # as stored
    return f"{result.resident_layers + result.preloaded_layers}{kind}/{result.layers}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
