"""Sums rows up: how STI does beside the baselines, and how well it predicts itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean, median

from host.bench.methods import STI, MethodKind
from host.bench.results import Row

NEVER_BELOW_POINTS = 0.3  # STI may be so much below a baseline that does not preload: less than chance
NEAR_WHOLE_POINTS = 0.5  # and so much below the whole model in memory
MEMORY_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Comparison:
    """STI beside the baselines at one target in one setting. Points are percent of the texts; None: nothing to say."""

    flash_mb_s: float
    cpu_percent: float
    target_ms: float
    sti: float
    best_streaming: float  # best accuracy of a baseline that does not preload
    best_streaming_method: str
    io_binds: bool
    io_binds_8: bool
    whole_computes: bool
    whole: float | None  # PreloadModel-32
    memory_share: float | None  # STI's measured peak by that of PreloadModel-32
    failures: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Points that STI is above the best baseline that does not preload."""
        return self.sti - self.best_streaming


@dataclass(frozen=True, slots=True)
class Predictions:
    """How predictions turned out. Errors are |predicted - measured| / measured, ratios predicted / measured."""

    median_error: float
    promised_runs: int  # that were predicted to keep their target
    kept_share: float | None  # of those, that did
    lowest_peak_ratio: float
    highest_peak_ratio: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Numbers that a reader looks for first. None where no cell is of that kind."""

    comparisons: tuple[Comparison, ...]
    mean_gain_io_binds: float | None  # points
    mean_gain_io_binds_8: float | None
    sti: Predictions
    all_methods: Predictions


def verdict_of(rows: Sequence[Row]) -> Verdict:
    """From all rows of one model."""
    comparisons = tuple(comparison for cell in _cells(rows) if (comparison := _compared(cell)))
    return Verdict(
        comparisons=comparisons,
        mean_gain_io_binds=_mean([item.gain for item in comparisons if item.io_binds]),
        mean_gain_io_binds_8=_mean([item.gain for item in comparisons if item.io_binds_8]),
        sti=_predictions([row for row in rows if row.method == STI.name]),
        all_methods=_predictions(rows),
    )


def _cells(rows: Sequence[Row]) -> Iterator[list[Row]]:
    def place(row: Row) -> tuple[float, float, float]:
        return row.cpu_percent, row.flash_mb_s, row.target_ms

    for _, group in groupby(sorted(rows, key=place), key=place):
        yield list(group)


def _compared(rows: Sequence[Row]) -> Comparison | None:
    accuracy = {row.method: row.accuracy for row in rows if row.accuracy is not None}
    preload = MethodKind.PRELOAD_MODEL.value
    streaming = {name: value for name, value in accuracy.items() if name != STI.name and not name.startswith(preload)}
    if STI.name not in accuracy or not streaming:
        return None
    by_method = {row.method: row for row in rows}
    own, whole = by_method[STI.name], by_method.get(f"{preload}-32")
    best = max(streaming, key=streaming.__getitem__)
    return Comparison(
        flash_mb_s=own.flash_mb_s,
        cpu_percent=own.cpu_percent,
        target_ms=own.target_ms,
        sti=accuracy[STI.name],
        best_streaming=streaming[best],
        best_streaming_method=best,
        io_binds=own.io_binds,
        io_binds_8=own.io_binds_8,
        whole_computes=own.whole_computes,
        whole=whole.accuracy if whole else None,
        memory_share=own.model_peak_mib / whole.model_peak_mib if whole else None,
        failures=tuple(_failures(own, streaming, whole)),
    )


def _failures(own: Row, streaming: dict[str, float], whole: Row | None) -> Iterator[str]:
    """What STI should have done better here, with the numbers."""
    assert own.accuracy is not None
    shape = f"{own.layers} x {own.slices} at {own.mean_bits:g} bits"
    for name, value in streaming.items():
        if own.accuracy < value - NEVER_BELOW_POINTS - 1e-9:
            yield f"{value - own.accuracy:.2f} points below {name} ({value:.2f}); it ran {shape}"
    if not (own.whole_computes and whole and whole.accuracy is not None):
        return
    if own.accuracy < whole.accuracy - NEAR_WHOLE_POINTS - 1e-9:
        yield f"{whole.accuracy - own.accuracy:.2f} points below {whole.method} ({whole.accuracy:.2f}); it ran {shape}"
    if own.model_peak_mib > MEMORY_SHARE * whole.model_peak_mib:
        yield (
            f"took {own.model_peak_mib:.1f} MiB, {own.model_peak_mib / whole.model_peak_mib:.0%} of "
            f"{whole.method}'s {whole.model_peak_mib:.1f} MiB"
        )


def _predictions(rows: Sequence[Row]) -> Predictions:
    promised = sum(row.promised_runs for row in rows)
    ratios = [row.predicted_peak_mib / row.model_peak_mib for row in rows]
    return Predictions(
        median_error=median(row.prediction_error for row in rows),
        promised_runs=promised,
        kept_share=sum(row.kept_runs for row in rows) / promised if promised else None,
        lowest_peak_ratio=min(ratios),
        highest_peak_ratio=max(ratios),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
