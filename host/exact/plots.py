"""Pictures of the comparison: latency against memory, one panel for each speed of the flash."""

import re
from collections.abc import Sequence
from pathlib import Path

from host.exact.results import Comparison

MIB = 1 << 20
_PANEL_INCHES = (4.2, 3.6)


def draw_plots(folder: Path, comparisons: Sequence[Comparison]) -> list[Path]:
    """One PNG for each model and sequence; returns their paths."""
    subjects = dict.fromkeys((c.measured.subject, c.measured.sequence) for c in comparisons)
    return [_draw(folder, name, sequence, comparisons) for name, sequence in subjects]


def _draw(folder: Path, name: str, sequence: int, comparisons: Sequence[Comparison]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    mine = [c for c in comparisons if (c.measured.subject, c.measured.sequence) == (name, sequence)]
    speeds = list(dict.fromkeys(c.measured.flash for c in mine))
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * len(speeds), height), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, speed in zip(figure.subplots(1, len(speeds), squeeze=False, sharey=True)[0], speeds, strict=True):
        for way in dict.fromkeys(c.measured.way for c in mine):
            points = sorted(
                (c.measured.peak_bytes / MIB, c.measured.total_ms)
                for c in mine
                if (c.measured.way, c.measured.flash) == (way, speed)
            )
            panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=way)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(speed)
        panel.set_xlabel("memory over the idle agent, MiB")
        panel.grid(visible=True, which="both", alpha=0.2)
    figure.axes[0].set_ylabel("latency of a request, ms")
    figure.axes[-1].legend(fontsize=6)
    figure.suptitle(f"{name}, sequence {sequence}")
    path = folder / f"pipeload-{re.sub(r'[^a-z0-9.]+', '-', name.lower())}-{sequence}.png"
    figure.savefig(path, dpi=110)
    return path
