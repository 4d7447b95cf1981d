"""Ladders of upgrades: from the quickest bitwidths to the best, the most gain per millisecond of loading first.

The order does not depend on any target, so a longer target only ever climbs higher: that is what makes planning
monotone. Each shard's options are thinned to their lower convex hull (load time, loss), on which the greedy order is
that of the linear relaxation (Sinha and Zoltners 1979, the multiple-choice knapsack problem).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from device_agent.planning.options import Floats, Indices, Options

NEAR = 6  # how far around a level single steps are exchanged


@dataclass(frozen=True, slots=True)
class Steps:
    """Upgrades of all groups of shards, best gain per load first. A group is a shard, or a whole layer."""

    after: Indices  # (layers, groups, steps + 1): option after that many steps
    layer: Indices  # (steps,)
    group: Indices  # (steps,)
    transfer_ms: Floats  # (steps,): more than before the step
    load_ms: Floats  # (steps,)
    loss: Floats  # (steps,): less than before, so negative


def shard_steps(options: Options) -> Steps:
    """Upgrades shard by shard."""
    return _steps(options.load_ms, options.transfer_ms, options.loss)


def layer_steps(options: Options, slices: int) -> Steps:
    """Upgrades of whole layers of so many slices, which need the fewest reads."""
    values = (options.load_ms, options.transfer_ms, options.loss)
    return _steps(*(value[:, :slices].sum(axis=1, keepdims=True) for value in values))


def _steps(load_ms: Floats, transfer_ms: Floats, loss: Floats) -> Steps:
    """Steps over arrays (layers, groups, options)."""
    layers, groups, count = loss.shape
    after = np.zeros((layers, groups, count), np.intp)
    found: list[tuple[float, int, int, float, float, float]] = []
    for layer in range(layers):
        for group in range(groups):
            times, reads, losses = (values[layer, group].tolist() for values in (load_ms, transfer_ms, loss))
            hull = lower_hull(times, losses)
            after[layer, group] = hull + [hull[-1]] * (count - len(hull))
            for low, high in pairwise(hull):
                more_ms, less = times[high] - times[low], losses[high] - losses[low]
                found.append((less / more_ms, layer, group, reads[high] - reads[low], more_ms, less))
    found.sort(key=lambda step: step[0])  # stable: a group's own steps stay in order
    columns = list(zip(*found, strict=True)) or [()] * 6
    layer_of, group_of = (np.array(column, np.intp) for column in columns[1:3])
    more = [np.array(column, np.float64) for column in columns[3:]]
    return Steps(after, layer_of, group_of, *more)


def lower_hull(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Options on the lower convex hull, by rising cost and falling loss."""
    hull: list[int] = []
    for option in sorted(range(len(costs)), key=lambda index: (costs[index], losses[index])):
        if hull and losses[option] >= losses[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(costs, losses, hull[-2], hull[-1]) >= _slope(costs, losses, hull[-2], option):
            hull.pop()
        hull.append(option)
    return hull


def _slope(costs: Sequence[float], losses: Sequence[float], low: int, high: int) -> float:
    return (losses[high] - losses[low]) / (costs[high] - costs[low])


def _climbing(base: float, more: Floats) -> Floats:
    levels = np.empty(len(more) + 1)
    levels[0], levels[1:] = base, more
    return np.cumsum(levels, out=levels)


class Ladder:
    """The steps that concern some layers and the first `slices` slices, as levels 0 to `top`."""

    def __init__(self, options: Options, steps: Steps, layers: Sequence[int], slices: int) -> None:
        self.layers = np.array(layers, np.intp)
        self._slices = slices
        self._after = steps.after
        self._groups = min(slices, steps.after.shape[1])
        position = np.full(steps.after.shape[0], -1, np.intp)
        position[self.layers] = np.arange(len(layers))
        places = position[steps.layer]
        chosen = np.flatnonzero((places >= 0) & (steps.group < slices))
        self._place = places[chosen]  # (top,)
        self._cell = self._place * self._groups + steps.group[chosen]
        self.top = len(chosen)
        self._options, self._more = options, (steps.transfer_ms[chosen], steps.load_ms[chosen], steps.loss[chosen])
        self._base = (self.layers[:, None], np.arange(slices), self.at_levels(0, 1)[0])
        self.loss = _climbing(float(options.loss[self._base].sum()), steps.loss[chosen])  # (top + 1,)
        self.total_load_ms = _climbing(float(options.load_ms[self._base].sum()), self._more[1])
        self.total_transfer_ms = _climbing(float(options.transfer_ms[self._base].sum()), self._more[0])

    @cached_property
    def transfer_ms(self) -> Floats:
        """Of each layer at each level: (top + 1, layers)."""
        return self._levels(self._options.transfer_ms, self._more[0])

    @cached_property
    def load_ms(self) -> Floats:
        """Of each layer at each level: (top + 1, layers)."""
        return self._levels(self._options.load_ms, self._more[1])

    @cached_property
    def losses(self) -> Floats:
        """Of each layer at each level: (top + 1, layers)."""
        return self._levels(self._options.loss, self._more[2])

    def _levels(self, values: Floats, more: Floats) -> Floats:
        levels = np.zeros((self.top + 1, len(self.layers)))
        levels[0] = values[self._base].sum(axis=1)
        levels[np.arange(1, self.top + 1), self._place] = more
        return np.cumsum(levels, axis=0, out=levels)

    def at_levels(self, start: int, stop: int) -> Indices:
        """The option of each shard at levels start to stop - 1: (levels, layers, slices)."""
        counts = np.zeros((stop - start, len(self.layers) * self._groups), np.intp)
        counts[0] = np.bincount(self._cell[:start], minlength=counts.shape[1])
        counts[np.arange(1, stop - start), self._cell[start : stop - 1]] = 1
        return self._after_counts(np.cumsum(counts, axis=0, out=counts))

    def near(self, level: int) -> Indices:
        """Alternatives around a level: a step left out, and any of those that follow it taken instead."""
        first = max(0, level - NEAR + 1)
        window = min(self.top, level + NEAR) - first
        rows = np.zeros((level + 1 - first, 1 << (NEAR - 1), window + NEAR), np.bool_)
        subsets = (np.arange(1 << (NEAR - 1))[:, None] >> np.arange(NEAR - 1)) & 1
        for index in range(level + 1 - first):
            rows[index, :, :index] = True
            rows[index, :, index + 1 : index + NEAR] = subsets
        return self._options_after(rows.reshape(-1, window + NEAR)[:, :window], first)

    def _options_after(self, taken: npt.NDArray[np.bool_], start: int) -> Indices:
        """The option of each shard after `start` steps and some of those that follow: (rows, layers, slices).

        taken: (rows, steps after start).
        """
        count = len(self.layers) * self._groups
        counts = np.broadcast_to(np.bincount(self._cell[:start], minlength=count), (len(taken), count)).copy()
        for index, cell in enumerate(self._cell[start : start + taken.shape[1]]):
            counts[:, cell] += taken[:, index]
        return self._after_counts(counts)

    def _after_counts(self, counts: Indices) -> Indices:
        places = counts.reshape(len(counts), len(self.layers), self._groups)
        chosen = self._after[self.layers[:, None], np.arange(self._groups), places]
        return np.broadcast_to(chosen, (len(counts), len(self.layers), self._slices))
