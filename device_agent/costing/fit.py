"""From a few measured times to a cost for every case."""

from collections.abc import Mapping, Sequence
from statistics import median

from device_agent.costs import MOST_CROWDING, PrepareCost, ReadCost
from device_agent.planning.schedule import Way, Work, schedule

_HALVINGS = 24
_UNMEASURABLE_BYTES_PER_MS = 1e9  # a terabyte a second: reads that took no time at all


def fit_line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Base and slope, both at least 0, of least squares through (x, ms); one x alone gives a line through 0."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else mean_y / mean_x
    base = mean_y - slope * mean_x
    if base < 0:
        return 0.0, max(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))
    return (base, slope) if slope >= 0 else (mean_y, 0.0)


def fit_reads(samples: Sequence[tuple[int, int, float]]) -> ReadCost:
    """From (reads, bytes, ms) of whole layers: time of one read = latency + bytes / rate."""
    latency_ms, ms_per_byte = fit_line([(nbytes / reads, ms / reads) for reads, nbytes, ms in samples])
    return ReadCost(latency_ms, 1.0 / ms_per_byte if ms_per_byte > 0 else _UNMEASURABLE_BYTES_PER_MS)


def fit_prepares(samples: Mapping[int, Sequence[tuple[int, float]]]) -> PrepareCost:
    """From (slices, ms) of whole layers at each bitwidth: a layer costs the same once, each shard its bitwidth's."""
    layer_ms = median(fit_line([(float(slices), ms) for slices, ms in points])[0] for points in samples.values())
    shard_ms = {
        bitwidth: max(0.0, sum((ms - layer_ms) * slices for slices, ms in points))
        / sum(slices * slices for slices, _ in points)
        for bitwidth, points in samples.items()
    }
    return PrepareCost(layer_ms, shard_ms)


def fit_crowding(work: Sequence[Work], loading_factor: float, total_ms: float) -> float:
    """How many times longer preparing takes with two agents, if a pass over these layers took so long."""

    def predicted_ms(factor: float) -> float:
        way = Way(agents=2, in_flight=2, loading_factor=loading_factor, crowding_factor=factor)
        return schedule(range(len(work)), work, way)[-1].execute.end_ms

    low, high = 1.0, MOST_CROWDING
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted_ms(middle) < total_ms else (low, middle)
    return low


def fill_widths(measured: Mapping[int, float], slices: int) -> tuple[float, ...]:
    """Times for 1 to `slices` slices from some of them: straight lines between neighbours, never falling."""
    known = sorted(measured)
    row: list[float] = []
    for width in range(1, slices + 1):
        below = max((known_width for known_width in known if known_width <= width), default=known[0])
        above = min((known_width for known_width in known if known_width >= width), default=known[-1])
        share = (width - below) / (above - below) if above > below else 0.0
        row.append(measured[below] + share * (measured[above] - measured[below]))
    return tuple(max(row[: width + 1]) for width in range(slices))
