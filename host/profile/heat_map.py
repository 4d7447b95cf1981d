"""The profile as a picture."""

import secrets
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from shard_store.profile import Grid, Profile

_FLOOR = 1e-9  # nats: what is less is drawn as that
_PANEL_INCHES = 3.6


def draw_heat_map(profile: Profile, path: Path) -> None:
    """Draw the loss of each shard at every bitwidth below the best, and the metric of each submodel, as a PNG."""
    lower = sorted(profile.shard_loss)[:-1]
    figure = Figure(figsize=(_PANEL_INCHES * (len(lower) + 1), _PANEL_INCHES), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(lower) + 1, squeeze=False)[0]
    losses = [np.maximum(profile.shard_loss[bitwidth], _FLOOR) for bitwidth in lower]
    if losses:
        colours = LogNorm(min(loss.min() for loss in losses), max(loss.max() for loss in losses) * 1.01)
        for axis, bitwidth, loss in zip(axes, lower, losses, strict=False):
            picture = axis.imshow(loss, norm=colours, cmap="inferno", origin="lower", aspect="auto")
            axis.set(title=f"loss at {bitwidth} bits (nats)", xlabel="slice", ylabel="layer")
        figure.colorbar(picture, ax=axes[: len(lower)])
    _draw_metrics(axes[-1], figure, profile.metrics, profile.metric)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        figure.savefig(aside, format="png")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _draw_metrics(axis: object, figure: Figure, metrics: Grid, name: str) -> None:
    picture = axis.imshow(metrics, cmap="viridis", origin="lower", aspect="auto", extent=_ones(metrics))  # type: ignore[attr-defined]
    axis.set(title=f"{name} of submodels", xlabel="first slices", ylabel="first layers")  # type: ignore[attr-defined]
    figure.colorbar(picture, ax=axis)  # type: ignore[arg-type]


def _ones(metrics: Grid) -> tuple[float, float, float, float]:
    """Counts start at 1."""
    return 0.5, len(metrics[0]) + 0.5, 0.5, len(metrics) + 0.5
