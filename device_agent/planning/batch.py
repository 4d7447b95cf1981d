"""Times of many plans at once: the recurrence of schedule.py over arrays of alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_agent.planning.facts import Facts
from device_agent.planning.options import Floats, Indices, Options
from device_agent.planning.schedule import Way


@dataclass(frozen=True, slots=True)
class Loads:
    """Durations of the loads of alternatives, each (alternatives, layers that load)."""

    read_ms: Floats
    prepare_ms: Floats


def loads_of(facts: Facts, options: Options, layers: Indices, chosen: Indices) -> Loads:
    """Loads of these layers. chosen: options, (alternatives, layers, slices)."""
    at = (layers[:, None], np.arange(chosen.shape[2]), chosen)
    nbytes = options.nbytes[at]  # (alternatives, layers, slices)
    reads = _count_reads(chosen, nbytes, facts.read_bytes)
    read = facts.costs.read
    read_ms = reads * read.latency_ms + nbytes.sum(axis=2) / read.bytes_per_ms
    return Loads(read_ms, facts.costs.prepare[options.kind].layer_ms + options.prepare_ms[at].sum(axis=2))


def _count_reads(chosen: Indices, nbytes: Indices, read_bytes: int) -> Indices:
    """As latency.count_reads, for all: (alternatives, layers)."""
    differs = chosen[:, :, 1:] != chosen[:, :, :-1]
    reads: Indices = differs.sum(axis=2) + 1
    if nbytes.sum(axis=2).max(initial=0) <= read_bytes:
        return reads
    group = nbytes[:, :, 0]
    for index in range(1, chosen.shape[2]):
        full = group + nbytes[:, :, index] > read_bytes
        reads += full & ~differs[:, :, index - 1]
        group = np.where(full, 0, group) + nbytes[:, :, index]
    return reads


def finish_ms(loads: Loads, way: Way, ready: int, execute_ms: float) -> Floats:
    """When each alternative has executed its last layer: (alternatives,).

    ready: layers that need no load, all before those that do; execute_ms: of every layer.
    """
    loading = _Loading(loads, way)
    for _ in range(way.in_flight):
        loading.launch(0.0)
    now: Floats = np.zeros(len(loads.read_ms))
    for index in range(ready + loads.read_ms.shape[1]):
        load = index - ready
        if load >= 0:
            now = np.maximum(now, loading.done[load])
        beside = np.minimum(np.maximum(loading.end_ms - now, 0.0), execute_ms * way.loading_factor)
        now = now + beside + (execute_ms - beside / way.loading_factor)
        if load >= 0:
            loading.launch(now)
    return now


class _Loading:
    """As schedule._Loading; the agents and lanes that are free first are sorted to the front."""

    def __init__(self, loads: Loads, way: Way) -> None:
        self._read_ms = loads.read_ms.T  # (loads, alternatives)
        self._prepare_ms = loads.prepare_ms.T * way.prepare_factor
        self._alone = way.agents == 1
        width = len(loads.read_ms)
        self._agents, self._lanes = np.zeros((way.agents, width)), np.zeros((way.lanes, width))
        self._flash_ms: Floats = np.zeros(width)
        self.done: list[Floats] = []
        self.end_ms: Floats = np.zeros(width)

    def launch(self, now_ms: Floats | float) -> None:
        index = len(self.done)
        if index >= len(self._read_ms):
            return
        read_ms, prepare_ms = self._read_ms[index], self._prepare_ms[index]
        start: Floats = np.maximum(self._agents[0], now_ms)
        if self._alone:
            end = self._agents[0] = start + read_ms + prepare_ms
        else:
            start = np.where(read_ms > 0, np.maximum(start, self._flash_ms), start)
            read_end = start + read_ms
            self._flash_ms = np.where(read_ms > 0, read_end, self._flash_ms)
            end = np.maximum(read_end, self._lanes[0]) + prepare_ms
            self._agents = _busy_until(self._agents, end)
            self._lanes = _busy_until(self._lanes, end)
        self.end_ms = np.maximum(self.end_ms, end)
        self.done.append(end)


def _busy_until(free: Floats, end: Floats) -> Floats:
    """With the first of `free` (workers, alternatives) busy until `end`, sorted again."""
    if len(free) == 1:
        return end[None]
    free = free.copy()
    free[0] = end
    return np.sort(free, axis=0)


def least_ms(loads: Loads, way: Way, ready: int, execute_ms: float) -> Floats:
    """A lower bound of finish_ms, whatever is in flight: (alternatives,)."""
    count = loads.read_ms.shape[1]
    if not count:
        return np.full(len(loads.read_ms), execute_ms * ready)
    after = execute_ms * np.arange(count, 0, -1)  # from the execution of each on
    work = np.cumsum(loads.read_ms + loads.prepare_ms, axis=1)
    bound: Floats = (work / way.agents + after).max(axis=1)
    if way.agents > 1:
        reading = np.cumsum(loads.read_ms, axis=1) + loads.prepare_ms + after
        bound = np.maximum(bound, reading.max(axis=1))
    return bound


def rising(values: Floats) -> Floats:
    """Values of ascending levels (levels, ...) as lower bounds of a level and all above: they never fall."""
    return np.minimum.accumulate(values[::-1], axis=0)[::-1]


def rows_of(loads: Loads, rows: Sequence[int] | Indices) -> Loads:
    """Some of the alternatives."""
    return Loads(loads.read_ms[rows], loads.prepare_ms[rows])


def together(first: Loads, then: Loads) -> Loads:
    """The same loads (1, layers) before those of every alternative."""
    return Loads(_joined(first.read_ms, then.read_ms), _joined(first.prepare_ms, then.prepare_ms))


def _joined(first: Floats, then: Floats) -> Floats:
    return np.concatenate([np.broadcast_to(first, (len(then), first.shape[1])), then], axis=1)
