"""Accuracy over target, and accuracy over memory: one panel per setting."""

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from host.bench.methods import METHODS, STI
from host.bench.results import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TARGET_PLOT = "accuracy-over-target.png"
MEMORY_PLOT = "accuracy-over-memory.png"
LATENCY_PLOT = "latency-over-target.png"
_MARKERS = "osv^D<>PX"


def draw(rows: Sequence[Row], out: Path) -> tuple[Path, ...]:
    """Write the plots into a folder; those of accuracy only if there is one."""
    paths = [_figure(rows, out / LATENCY_PLOT, _latency)]
    if all(row.accuracy is not None for row in rows):
        paths.append(_figure(rows, out / TARGET_PLOT, _over_target))
        paths.append(_figure(rows, out / MEMORY_PLOT, _over_memory))
    return tuple(paths)


def _figure(rows: Sequence[Row], path: Path, panel: Callable[["Axes", Sequence[Row], str], None]) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - slow, and only needed here
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings = [list(group) for _, group in groupby(rows, key=lambda row: (row.cpu_percent, row.flash_mb_s))]
    columns = min(3, len(settings))
    height = -(-len(settings) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.6 * height + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(height, columns, squeeze=False).ravel()
    for axes, members in zip(panels, settings, strict=False):
        axes.set_title(f"flash {members[0].flash_mb_s:g} MB/s, processor {members[0].cpu_percent:g} %", fontsize=9)
        axes.grid(alpha=0.3)
        for method in METHODS:
            if own := [row for row in members if row.method == method.name]:
                panel(axes, own, method.name)
        _plain_numbers(axes)
    for axes in panels[len(settings) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    figure.suptitle(f"{rows[0].model}, sequence {rows[0].sequence}", fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def _plain_numbers(axes: "Axes") -> None:
    """Along logarithmic axes, too, at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter  # noqa: PLC0415

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())


def _style(name: str) -> dict[str, object]:
    index = [method.name for method in METHODS].index(name)
    own = name == STI.name
    return {
        "label": name, "marker": _MARKERS[index], "color": f"C{index}", "markersize": 5,
        "linewidth": 2.0 if own else 1.0, "zorder": 3 if own else 2, "alpha": 1.0 if own else 0.8,
    }  # fmt: skip


def _over_target(axes: "Axes", rows: Sequence[Row], name: str) -> None:
    axes.plot([row.target_ms for row in rows], [row.accuracy for row in rows], **_style(name))  # type: ignore[arg-type]
    axes.set(xscale="log", xlabel="target ms", ylabel="accuracy %")


def _over_memory(axes: "Axes", rows: Sequence[Row], name: str) -> None:
    style = {**_style(name), "linestyle": ""}
    axes.plot([row.model_peak_mib for row in rows], [row.accuracy for row in rows], **style)  # type: ignore[arg-type]
    axes.set(xscale="log", xlabel="peak memory MiB", ylabel="accuracy %")


def _latency(axes: "Axes", rows: Sequence[Row], name: str) -> None:
    targets = [row.target_ms for row in rows]
    axes.plot(targets, [row.cold_p50_ms for row in rows], **_style(name))  # type: ignore[arg-type]
    axes.plot(targets, targets, color="black", linewidth=0.6, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="target ms", ylabel="median ms, cold")
