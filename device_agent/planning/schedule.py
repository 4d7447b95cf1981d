"""When each layer of a run is read, prepared and executed: the pipeline's recurrence.

The same rules as device_agent.pipeline and crew. Loads are launched in order: the first `in_flight` at once, each
further one when a loaded layer has been executed. A free agent takes the first load that waits. The flash device
serves one load at a time, and `lanes` cores prepare, both in the order of the loads; preparing takes `crowding_factor`
times as long where several agents work. Executing takes `loading_factor` times as long for as long as a launched load
is under way. Every end is a non-decreasing function of every duration.
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
class Way:
    """How loads pass through the pipeline."""

    agents: int
    in_flight: int
    lanes: int = 1  # layers that can be prepared at the same time
    loading_factor: float = 1.0
    load_first: bool = False  # nothing executes before everything has been loaded
    crowding_factor: float = 1.0

    @property
    def prepare_factor(self) -> float:
        """How many times longer preparing takes than by one agent alone."""
        return self.crowding_factor if self.agents > 1 else 1.0


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


@dataclass(frozen=True, slots=True)
class _Load:
    agent: int
    read: Span
    prepare: Span


class _Loading:
    """The loads of a run, and when everything that they need is free again."""

    def __init__(self, work: Sequence[Work], way: Way, start_ms: float) -> None:
        self._waiting = iter([item for item in work if item.loads])
        self._prepare_factor = way.prepare_factor
        self._agents = [start_ms] * way.agents
        self._lanes = [start_ms] * way.lanes
        self._flash_ms = start_ms
        self.done: list[_Load] = []
        self.end_ms = start_ms  # of all that were launched

    def launch(self, now_ms: float) -> None:
        """The next load, if there is one."""
        item = next(self._waiting, None)
        if item is None:
            return
        agent, lane = _first(self._agents), _first(self._lanes)
        start_ms = max(now_ms, self._agents[agent])
        if item.read_ms > 0:
            start_ms = max(start_ms, self._flash_ms)
            self._flash_ms = start_ms + item.read_ms
        read = Span(start_ms, start_ms + item.read_ms)
        prepare_ms = max(read.end_ms, self._lanes[lane])
        prepare = Span(prepare_ms, prepare_ms + item.prepare_ms * self._prepare_factor)
        self._agents[agent] = self._lanes[lane] = prepare.end_ms
        self.end_ms = max(self.end_ms, prepare.end_ms)
        self.done.append(_Load(agent, read, prepare))


def schedule(layers: Sequence[int], work: Sequence[Work], way: Way, start_ms: float = 0.0) -> list[LayerSpans]:
    """Spans of every layer, by the position in the run."""
    loading = _Loading(work, way, start_ms)
    for _ in range(way.in_flight):
        loading.launch(start_ms)
    now = loading.end_ms if way.load_first else start_ms
    taken, spans = 0, []
    for layer, item in zip(layers, work, strict=True):
        load = loading.done[taken] if item.loads else None
        begin = max(now, load.prepare.end_ms) if load else now
        now = executed_ms(begin, item.execute_ms, way.loading_factor, loading.end_ms)
        span = Span(begin, now)
        spans.append(
            LayerSpans(layer, load.agent, load.read, load.prepare, span)
            if load
            else LayerSpans(layer, None, None, None, span)
        )
        if load:
            taken += 1
            loading.launch(now)
    return spans


def executed_ms(begin_ms: float, execute_ms: float, loading_factor: float, loading_ms: float) -> float:
    """When an execution ends that is slower until `loading_ms`, when all launched loads are done."""
    beside = min(max(loading_ms - begin_ms, 0.0), execute_ms * loading_factor)
    return begin_ms + beside + (execute_ms - beside / loading_factor)


def _first(free: Sequence[float]) -> int:
    return min(range(len(free)), key=free.__getitem__)
