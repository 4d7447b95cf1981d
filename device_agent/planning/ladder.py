"""Ladders of upgrades: from the quickest bitwidths to the best, the most gain per millisecond of loading first.

The order does not depend on any target, so a longer target only ever climbs higher: that is what makes planning
monotone. Each shard's options are thinned to their lower convex hull (load time, loss), on which the greedy order is
that of the linear relaxation (Sinha and Zoltners 1979, the multiple-choice knapsack problem).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from device_agent.planning.options import Floats, Indices, Options


@dataclass(frozen=True, slots=True)
class Steps:
    """Upgrades of all groups of shards, best gain per load first. A group is a shard, or a whole layer."""

    first: Indices  # (layers, groups): option before any step
    after: Indices  # (layers, groups, steps + 1): option after that many steps
    layer: Indices  # (steps,)
    group: Indices  # (steps,)
    transfer_ms: Floats  # (steps,): more than before the step
    load_ms: Floats  # (steps,)
    loss: Floats  # (steps,): less than before, so negative


def steps_of(load_ms: Floats, transfer_ms: Floats, loss: Floats) -> Steps:
    """Steps over arrays (layers, groups, options)."""
    layers, groups, count = loss.shape
    after = np.zeros((layers, groups, count), np.intp)
    found: list[tuple[float, int, int, float, float, float]] = []
    for layer in range(layers):
        for group in range(groups):
            hull = lower_hull(load_ms[layer, group].tolist(), loss[layer, group].tolist())
            after[layer, group] = hull + [hull[-1]] * (count - len(hull))
            for low, high in pairwise(hull):
                more_ms, less, transfer = (
                    float(values[layer, group, high] - values[layer, group, low])
                    for values in (load_ms, loss, transfer_ms)
                )
                found.append((less / more_ms, layer, group, transfer, more_ms, less))
    found.sort(key=lambda step: step[0])  # stable: a group's own steps stay in order
    columns = list(zip(*found, strict=True)) or [()] * 6
    layer_of, group_of = np.array(columns[1], np.intp), np.array(columns[2], np.intp)
    transfer_ms, load_ms, loss = (np.array(column, np.float64) for column in columns[3:])
    return Steps(after[:, :, 0], after, layer_of, group_of, transfer_ms, load_ms, loss)


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


class Ladder:
    """The steps that concern some layers and the first `slices` slices, as levels 0 to `top`."""

    def __init__(self, options: Options, steps: Steps, layers: Sequence[int], slices: int) -> None:
        self._options = options
        self._after = steps.after
        self._layers = np.array(layers, np.intp)
        self._slices = slices
        self._groups = min(slices, steps.first.shape[1])
        position = np.full(steps.first.shape[0], -1, np.intp)
        position[self._layers] = np.arange(len(self._layers))
        chosen = np.flatnonzero((position[steps.layer] >= 0) & (steps.group < slices))
        self._cell = position[steps.layer[chosen]] * self._groups + steps.group[chosen]
        self.top = len(chosen)
        base = self.options(0, 1)[0]  # (layers, slices)
        self.loss = self._levels(options.loss, base, steps.loss[chosen])
        self.transfer_ms = self._levels(options.transfer_ms, base, steps.transfer_ms[chosen])
        self.load_ms = self._levels(options.load_ms, base, steps.load_ms[chosen])

    def _levels(self, values: Floats, base: Indices, more: Floats) -> Floats:
        """Sums over all shards by level: (top + 1,)."""
        levels = np.empty(self.top + 1)
        levels[0] = self._pick(values, base).sum()
        np.cumsum(more, out=levels[1:])
        levels[1:] += levels[0]
        return levels

    def options(self, start: int, stop: int) -> Indices:
        """The option of each shard at levels start to stop - 1: (levels, layers, slices)."""
        cells = len(self._layers) * self._groups
        taken = np.zeros((stop - start, cells), np.intp)
        taken[0] = np.bincount(self._cell[:start], minlength=cells)
        taken[np.arange(1, stop - start), self._cell[start : stop - 1]] = 1
        counts = np.cumsum(taken, axis=0).reshape(stop - start, len(self._layers), self._groups)
        chosen = self._after[self._layers[:, None], np.arange(self._groups), counts]
        return np.broadcast_to(chosen, (stop - start, len(self._layers), self._slices))

    def _pick(self, values: Floats, chosen: Indices) -> Floats:
        return values[self._layers[:, None], np.arange(self._slices), chosen]
