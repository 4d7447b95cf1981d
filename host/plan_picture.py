"""The pipeline of a planned run, as a picture and as a trace."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from device_agent.planning.latency import Forecast
from device_agent.planning.schedule import Span
from host.plan_preview import Preview
from shard_store.errors import StiError

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

_COLOURS = {"read": "#4c78a8", "prepare": "#f2a541", "execute": "#54a24b"}
_WIDTH_IN, _ROW_IN, _MARGIN_IN = 9.0, 0.42, 1.3


class PictureError(StiError):
    """A picture or a trace cannot be written."""


def bars(expected: Forecast) -> Iterator[tuple[str, str, int, Span]]:
    """Who does what with which layer, and when: (lane, phase, layer, span)."""
    for spans in expected.layers:
        lane = f"loading agent {(spans.agent or 0) + 1}"
        for phase, span in (("read", spans.read), ("prepare", spans.prepare)):
            if span and span.end_ms > span.start_ms:
                yield lane, phase, spans.layer, span
        yield "inference agent", "execute", spans.layer, spans.execute


def draw_plan(preview: Preview, out: Path) -> None:
    """One row for each agent, one bar for each phase of each layer. Raises PictureError."""
    found = list(bars(preview.expected))
    lanes = sorted({lane for lane, *_ in found}, reverse=True)
    size = (_WIDTH_IN, _MARGIN_IN + _ROW_IN * len(lanes))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    for lane, phase, layer, span in found:
        width = span.end_ms - span.start_ms
        row = lanes.index(lane)
        axes.broken_barh(
            [(span.start_ms, width)], (row - 0.4, 0.8), color=_COLOURS[phase], edgecolor="white", linewidth=0.5
        )
        if width > preview.expected.total_ms / 60:
            middle = span.start_ms + width / 2
            axes.text(middle, row, str(layer), ha="center", va="center", fontsize=7, color="white")
    axes.set_yticks(range(len(lanes)), lanes)
    _decorate(axes, preview)
    try:
        figure.savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise PictureError(f"{out}: the picture cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def _decorate(axes: Axes, preview: Preview) -> None:
    for phase, colour in _COLOURS.items():
        axes.barh(0, 0, color=colour, label=phase)
    if preview.target_ms is not None:
        axes.axvline(preview.target_ms, color="#d62728", linewidth=1.2, label="target")
    axes.set_xlim(left=0)
    axes.set_xlabel("ms (numbers are layers)")
    axes.legend(ncols=4, fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(0, -0.35))
    plan = preview.choice.plan
    axes.set_title(
        f"{preview.model}: {len(plan.layers)} layers x {plan.slices} slices, "
        f"predicted {preview.choice.predicted_ms:.1f} ms",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)


def write_trace(preview: Preview, out: Path) -> None:
    """The same as a trace for ui.perfetto.dev (Chrome's trace event format). Raises PictureError."""
    found = list(bars(preview.expected))
    lanes = sorted({lane for lane, *_ in found})
    names: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": lane}}
        for number, lane in enumerate(lanes)
    ]
    events = [
        {
            "ph": "X", "pid": 1, "tid": lanes.index(lane), "name": f"{phase} layer {layer}", "cat": phase,
            "ts": span.start_ms * 1e3, "dur": (span.end_ms - span.start_ms) * 1e3,
        }
        for lane, phase, layer, span in found
    ]  # fmt: skip
    try:
        out.write_text(json.dumps({"traceEvents": names + events, "displayTimeUnit": "ms"}), "utf-8")
    except OSError as error:
        raise PictureError(f"{out}: the trace cannot be written: {error.strerror or error}") from error
