"""From measurements to losses that add up (docs/profile.md)."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def own_losses(changes: npt.NDArray[np.floating]) -> Doubles:
    """Each shard's loss when it alone is lowered, to second order: (shards,) from changes (shards, texts, n)."""
    return np.asarray(0.5 * (changes.astype(np.float64) ** 2).sum(-1).mean(-1))


def additive_losses(raw: Mapping[int, Doubles], uniform: Mapping[int, float]) -> dict[int, Doubles]:
    """Losses (shards,) by ascending bitwidth that are not negative, never rise with the bitwidth, and add up.

    raw: a first guess for each bitwidth; uniform: the loss of the whole model at that bitwidth, which the sum is
    brought to, except where a loss would rise with the bitwidth: there the bitwidths share their mean.
    """
    scaled = []
    for bitwidth in sorted(raw):
        positive = np.maximum(raw[bitwidth], 0.0)
        total = positive.sum()
        scaled.append(
            positive * (uniform[bitwidth] / total)
            if total > 0
            else np.full_like(positive, uniform[bitwidth] / positive.size)
        )
    return dict(zip(sorted(raw), never_rising(np.stack(scaled)), strict=True))


def never_rising(values: Doubles) -> Doubles:
    """The closest values (n, columns), by squared distance, that never rise along the first axis.

    Pool adjacent violators (Ayer et al. 1955).
    """
    return np.stack([_pooled(column) for column in values.T], axis=1)


def _pooled(column: Sequence[float] | Doubles) -> Doubles:
    blocks: list[tuple[float, int]] = []  # mean, length
    for value in column:
        mean, length = float(value), 1
        while blocks and blocks[-1][0] < mean:
            before, count = blocks.pop()
            mean = (mean * length + before * count) / (length + count)
            length += count
        blocks.append((mean, length))
    return np.concatenate([np.full(length, mean) for mean, length in blocks])
