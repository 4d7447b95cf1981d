"""Times of many plans at once: the recurrence of schedule.py over arrays of alternatives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_agent.planning.facts import Facts
from device_agent.planning.options import Floats, Indices, Options


@dataclass(frozen=True, slots=True)
class Shape:
    """What all alternatives share: the layers, and how they pass through the pipeline."""

    layers: tuple[int, ...]
    resident: int  # the first so many are ready
    execute_ms: float  # of each layer, for all texts, beside no loading
    agents: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Loads:
    """Durations of the loads of alternatives, each (alternatives, layers that load)."""

    read_ms: Floats
    prepare_ms: Floats


def loads_of(facts: Facts, options: Options, layers: Sequence[int], chosen: Indices) -> Loads:
    """Loads of these layers. chosen: options, (alternatives, layers, slices)."""
    rows, columns = np.array(layers, np.intp)[:, None], np.arange(chosen.shape[2])
    nbytes = options.nbytes[rows, columns, chosen]  # (alternatives, layers, slices)
    reads = _count_reads(chosen, nbytes, facts.read_bytes)
    read = facts.costs.read
    read_ms = reads * read.latency_ms + nbytes.sum(axis=2) / read.bytes_per_ms
    prepare_ms = facts.costs.prepare[options.kind].layer_ms + options.prepare_ms[rows, columns, chosen].sum(axis=2)
    return Loads(read_ms, prepare_ms)


def _count_reads(chosen: Indices, nbytes: Indices, read_bytes: int) -> Indices:
    """As latency.count_reads, for all: (alternatives, layers)."""
    changes: Indices = (chosen[:, :, 1:] != chosen[:, :, :-1]).sum(axis=2) + 1
    if nbytes.sum(axis=2).max(initial=0) <= read_bytes:
        return changes
    group = nbytes[:, :, 0].copy()
    for index in range(1, chosen.shape[2]):
        full = group + nbytes[:, :, index] > read_bytes
        changes += full & (chosen[:, :, index] == chosen[:, :, index - 1])
        group = np.where(full, 0, group) + nbytes[:, :, index]
    return changes


def finish_ms(shape: Shape, loads: Loads, loading_factor: float) -> Floats:
    """When each alternative has executed its last layer: (alternatives,)."""
    read, prepare = loads.read_ms.T, loads.prepare_ms.T  # (loads, alternatives)
    count, width = read.shape
    free = np.zeros((shape.agents, width))
    flash, loading = np.zeros(width), np.zeros(width)
    ready: list[Floats] = []

    def launch(now: Floats | float) -> None:
        nonlocal flash, loading
        index = len(ready)
        if index >= count:
            return
        agent = free[0] if shape.agents == 1 else free.min(axis=0)
        begin = np.maximum(agent, now)
        if shape.agents > 1:
            reading = read[index] > 0
            begin = np.where(reading, np.maximum(begin, flash), begin)
            flash = np.where(reading, begin + read[index], flash)
        end = begin + read[index] + prepare[index]
        if shape.agents == 1:
            free[0] = end
        else:
            free[free.argmin(axis=0), np.arange(width)] = end
        loading = np.maximum(loading, end)
        ready.append(end)

    for _ in range(shape.in_flight):
        launch(0.0)
    now, slowed = np.zeros(width), shape.execute_ms * loading_factor
    for index in range(len(shape.layers)):
        load = index - shape.resident
        if load >= 0:
            now = np.maximum(now, ready[load])
        beside = np.minimum(np.maximum(loading - now, 0.0), slowed)
        now = now + beside + (shape.execute_ms - beside / loading_factor)
        if load >= 0:
            launch(now)
    return now
