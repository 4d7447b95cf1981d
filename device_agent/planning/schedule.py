"""When each layer of a run is read, prepared and executed: the pipeline's recurrence.

The same rules as device_agent.pipeline and crew. Loads are launched in order: the first `in_flight` at once, each
further one when a loaded layer has been executed. A free agent takes the first load that waits. The flash device
serves one load at a time, in order. Executing takes `loading_factor` times as long for as long as a launched load is
under way. Every end is a non-decreasing function of every duration.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """Durations of one layer, in ms; a layer that is ready needs no load."""

    read_ms: float
    prepare_ms: float
    execute_ms: float  # for all texts, beside no loading
    loads: bool = True


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when, in ms since the start of the pass."""

    start_ms: float
    end_ms: float


@dataclass(frozen=True, slots=True)
class LayerSpans:
    """One layer of a run on the clock. A layer that was ready has neither agent, read nor prepare."""

    layer: int
    agent: int | None
    read: Span | None
    prepare: Span | None
    execute: Span


def schedule(
    layers: Sequence[int], work: Sequence[Work], loading_factor: float, *,
    agents: int, in_flight: int, start_ms: float,
) -> list[LayerSpans]:  # fmt: skip
    """Spans of every layer, by the position in the run."""
    waiting = iter([item for item in work if item.loads])
    loads: list[tuple[int, Span, Span]] = []
    free = [start_ms] * agents
    flash_ms = loading_ms = start_ms

    def launch(now: float) -> None:
        nonlocal flash_ms, loading_ms
        if (item := next(waiting, None)) is None:
            return
        agent = min(range(agents), key=free.__getitem__)
        begin = max(now, free[agent])
        if item.read_ms > 0:
            begin = max(begin, flash_ms)
            flash_ms = begin + item.read_ms
        read = Span(begin, begin + item.read_ms)
        prepare = Span(read.end_ms, read.end_ms + item.prepare_ms)
        free[agent] = prepare.end_ms
        loading_ms = max(loading_ms, prepare.end_ms)
        loads.append((agent, read, prepare))

    for _ in range(in_flight):
        launch(start_ms)
    now, taken, spans = start_ms, 0, []
    for layer, item in zip(layers, work, strict=True):
        agent, read, prepare = loads[taken] if item.loads else (None, None, None)
        begin = max(now, prepare.end_ms) if prepare else now
        now = executed_ms(begin, item.execute_ms, loading_factor, loading_ms)
        spans.append(LayerSpans(layer, agent, read, prepare, Span(begin, now)))
        if item.loads:
            taken += 1
            launch(now)
    return spans


def executed_ms(begin_ms: float, execute_ms: float, loading_factor: float, loading_ms: float) -> float:
    """When an execution ends that is slower until `loading_ms`, when all launched loads are done."""
    beside = loading_ms - begin_ms
    if beside <= 0:
        return begin_ms + execute_ms
    if beside >= execute_ms * loading_factor:
        return begin_ms + execute_ms * loading_factor
    return begin_ms + beside + execute_ms - beside / loading_factor
