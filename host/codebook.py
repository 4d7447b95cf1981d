"""The best int8 codebook for a set of numbers: 1-D k-means, solved exactly.

In one dimension the clusters of k-means are intervals, so the best levels follow by dynamic programming over sorted
candidates (Wang and Song, "Ckmeans.1d.dp", The R Journal 3/2, 2011). The candidates here are the 255 lattice levels
themselves: the result is the optimal *integer* codebook, with no start values, no rounding afterwards and no chance.
"""

import numpy as np
import numpy.typing as npt

LEVEL_LIMIT = 127

Float64Array = npt.NDArray[np.float64]


def fit_codebook(values: Float64Array, size: int) -> npt.NDArray[np.int8]:
    """The `size` distinct levels, ascending, with the least squared distance to `values` (n,), given in level units.

    Values beyond +-127 count as +-127. No values at all give levels around zero. `size` is 1 to 255.
    """
    low, high = _candidate_range(values, size)
    cost, first, last = _interval_costs(values, low, high)
    columns = np.arange(high - low + 1)
    best, previous = first, []
    for _ in range(size - 1):
        sums = best[:, None] + cost  # (level before, level)
        previous.append(sums.argmin(axis=0))
        best = sums[previous[-1], columns]
    level = int((best + last).argmin())
    levels = [level]
    for choice in reversed(previous):
        level = int(choice[level])
        levels.append(level)
    return (np.array(levels[::-1]) + low).astype(np.int8)


def nearest_codes(values: Float64Array, codebook: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """The index of the nearest level for each value, any shape; `codebook` ascends."""
    levels = codebook.astype(np.float64)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, values).astype(np.uint8)


def _candidate_range(values: Float64Array, size: int) -> tuple[int, int]:
    """Lowest and highest candidate: the values' own range, widened to hold `size` levels."""
    low = max(int(np.floor(values.min(initial=0.0))), -LEVEL_LIMIT)
    high = min(int(np.ceil(values.max(initial=0.0))), LEVEL_LIMIT)
    missing = max(0, size - (high - low + 1))
    low = max(low - missing // 2, -LEVEL_LIMIT)
    high = max(high, low + size - 1)
    return low - max(0, high - LEVEL_LIMIT), min(high, LEVEL_LIMIT)


def _interval_costs(values: Float64Array, low: int, high: int) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Squared distances of the values between two neighbouring levels, (levels, levels), infinite unless ascending;
    of those below a lowest level, and of those above a highest one, (levels,).

    Two integer levels part at a multiple of one half, so sums over half-unit bins are exact.
    """
    count = high - low + 1
    shifted = np.clip(values, low, high) - low
    bins = (2 * shifted).astype(np.intp)
    sums = [
        np.concatenate(([0.0], np.cumsum(np.bincount(bins, weights=shifted**power, minlength=2 * count))))
        for power in range(3)
    ]

    def within(start: npt.NDArray[np.intp], end: npt.NDArray[np.intp], level: npt.NDArray[np.intp]) -> Float64Array:
        mass, first, second = (total[end] - total[start] for total in sums)
        distance: Float64Array = second - 2 * level * first + level**2 * mass
        return distance

    level = np.arange(count)
    left, right = level[:, None], level[None, :]
    cost = within(2 * left, left + right, left) + within(left + right, 2 * right, right)
    cost[left >= right] = np.inf
    return cost, within(0 * level, 2 * level, level), within(2 * level, np.full(count, 2 * count), level)
