"""Ladders of upgrades: from the quickest bitwidths to the best, the most gain per millisecond of loading first.

The order does not depend on any target, so a longer target only ever climbs higher: that is what makes planning
monotone. Each shard's options are thinned to their lower convex hull (load time, loss), on which the greedy order is
that of the linear relaxation (Sinha and Zoltners 1979, the multiple-choice knapsack problem).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from device_agent.planning.batch import Loads, loads_of
from device_agent.planning.facts import Facts
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


class Ladder:
    """The steps that concern the first `slices` slices, as levels 0 to `top` over all layers of the model.

    What a layer costs at a level depends on its own steps alone. So one ladder serves every choice of layers: the steps
    of the others change nothing.
    """

    def __init__(self, facts: Facts, options: Options, steps: Steps, slices: int) -> None:
        chosen = np.flatnonzero(steps.group < slices)
        self.layer, self._group, self._after = steps.layer[chosen], steps.group[chosen], steps.after  # (top,), (top,)
        self.top, self._slices = len(chosen), slices
        layers = np.arange(len(steps.after))
        taken = np.zeros((self.top + 1, len(layers)), np.intp)
        taken[np.arange(1, self.top + 1), self.layer] = 1
        self.taken: Indices = np.cumsum(taken, axis=0, out=taken)  # (top + 1, layers): own steps by level
        self.chosen = self._by_own_steps(layers)  # (own steps + 1, layers, slices): options
        self.loads = loads_of(facts, options, layers, self.chosen)  # (own steps + 1, layers)
        at = (layers[:, None], np.arange(slices), self.chosen)
        self.loss: Floats = options.loss[at].sum(axis=2)  # (own steps + 1, layers)
        latency_ms = facts.costs.read.latency_ms
        self.least_load_ms: Floats = (
            options.transfer_ms[at].sum(axis=2) + latency_ms + self.loads.prepare_ms
        )  # one read

    def _by_own_steps(self, layers: Indices) -> Indices:
        groups = min(self._slices, self._after.shape[1])
        own = self.taken[np.arange(1, self.top + 1), self.layer]  # (top,): the how many-th step of its layer
        counts = np.zeros((own.max(initial=0) + 1, len(layers), groups), np.intp)
        counts[own, self.layer, self._group] = 1
        chosen = self._after[layers[:, None], np.arange(groups), np.cumsum(counts, axis=0, out=counts)]
        return np.broadcast_to(chosen, (*chosen.shape[:2], self._slices))

    def levels_of(self, layers: Indices) -> Indices:
        """The levels at which one of these layers differs from the level before: (own levels,)."""
        concerns = np.zeros(self.taken.shape[1], np.bool_)
        concerns[layers] = True
        return np.concatenate([[0], np.flatnonzero(concerns[self.layer]) + 1])

    def loads_at(self, levels: Indices, layers: Indices) -> Loads:
        """Of some layers at some levels: (levels, layers)."""
        own = self.taken[levels[:, None], layers]
        return Loads(self.loads.read_ms[own, layers], self.loads.prepare_ms[own, layers])

    def loss_at(self, levels: Indices, layers: Indices) -> Floats:
        """Of some layers together at some levels: (levels,)."""
        losses: Floats = self.loss[self.taken[levels[:, None], layers], layers].sum(axis=1)
        return losses

    def near(self, levels: Indices, place: int, layers: Indices) -> Indices:
        """Alternatives around one of the levels of some layers: (alternatives, layers, slices).

        A step left out, and any of those that follow it taken instead.
        """
        first = max(0, place - NEAR + 1)
        window = min(len(levels) - 1, place + NEAR) - first
        rows = np.zeros((place + 1 - first, 1 << (NEAR - 1), window + NEAR), np.bool_)
        subsets = (np.arange(1 << (NEAR - 1))[:, None] >> np.arange(NEAR - 1)) & 1
        for index in range(place + 1 - first):
            rows[index, :, :index] = True
            rows[index, :, index + 1 : index + NEAR] = subsets
        return self._options_after(rows.reshape(-1, window + NEAR)[:, :window], levels, first, layers)

    def _options_after(self, taken: npt.NDArray[np.bool_], levels: Indices, start: int, layers: Indices) -> Indices:
        """Options after the first `start` of these steps and some of those that follow. taken: (rows, steps)."""
        steps = levels[1:] - 1
        counts = np.zeros((len(taken), *self._after.shape[:2]), np.intp)
        np.add.at(counts[0], (self.layer[steps[:start]], self._group[steps[:start]]), 1)
        counts[1:] = counts[0]
        for index, step in enumerate(steps[start : start + taken.shape[1]]):
            counts[:, self.layer[step], self._group[step]] += taken[:, index]
        groups = np.arange(min(self._slices, self._after.shape[1]))
        chosen = self._after[layers[:, None], groups, counts[:, layers[:, None], groups]]
        return np.broadcast_to(chosen, (len(taken), len(layers), self._slices))
