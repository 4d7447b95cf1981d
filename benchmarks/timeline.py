"""Draws what one streamed pass really did: reads, preparation and execution of every layer, on a common clock.

Run `python -m benchmarks.timeline STORE --out docs/pipeline.png`. It runs the ordinary pipeline; only its reader and
its executor are wrapped in ones that note when they were called.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from device_agent.executor import Activations, Executor, LayerHandle, Passenger
from device_agent.inplace import ExecutorChoice, choose_executor
from device_agent.layer_model import LayerFrame
from device_agent.litert import Runtime
from device_agent.loading import LayerSource
from device_agent.memory import Footprint, LayerFootprint, Ledger
from device_agent.pipeline import Pass, Pipeline
from device_agent.plan import Plan, Residency, uniform_plan
from shard_store.geometry import Geometry, ShardKey
from shard_store.reader import ShardReader, Store
from shard_store.template import Template

mpl.use("Agg")

from matplotlib import pyplot

COLOURS = {"read": "#4c78a8", "prepare": "#f2a541", "execute": "#54a24b"}
ROWS = ("execute", "prepare", "read")
WARM_UPS = 12


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time."""

    what: str
    start: float
    end: float


class Notes:
    """All spans of a pass."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def note(self, what: str) -> Iterator[None]:
        """Note the time spent inside."""
        start = time.perf_counter()
        yield
        self.spans.append(Span(what, start, time.perf_counter()))


class NotedReader(ShardReader):
    """Notes every read."""

    def __init__(self, store: Store, notes: Notes, *, direct: bool) -> None:
        super().__init__(store, direct)
        self._notes = notes

    def read(self, keys: Sequence[ShardKey], buffer: memoryview) -> list[memoryview]:
        """As ShardReader."""
        with self._notes.note("read"):
            return super().read(keys, buffer)


class NotedExecutor:
    """Notes every execution, and how long a layer is in preparation: from its frame to its handle."""

    def __init__(self, inner: Executor, notes: Notes) -> None:
        self._inner = inner
        self._notes = notes
        self._begun: dict[int, float] = {}
        self.name = inner.name

    @property
    def set_aside(self) -> int:
        """As the executor inside."""
        return self._inner.set_aside

    def frame(self, template: Template, geometry: Geometry, *, passing: bool) -> LayerFrame:
        """As the executor inside."""
        start = time.perf_counter()
        frame = self._inner.frame(template, geometry, passing=passing)
        self._begun[id(frame)] = start
        return frame

    @property
    def refused(self) -> frozenset[tuple[int, int]]:
        """As the executor inside."""
        return self._inner.refused

    def in_place(self, slices: int, sequence: int) -> bool:
        """As the executor inside."""
        return self._inner.in_place(slices, sequence)

    def warm(self, template: Template, geometry: Geometry) -> None:
        """As the executor inside."""
        self._inner.warm(template, geometry)

    def prepare(self, frame: LayerFrame) -> LayerHandle:
        """As the executor inside."""
        handle = self._inner.prepare(frame)
        self._notes.spans.append(Span("prepare", self._begun.pop(id(frame)), time.perf_counter()))
        return handle

    def run(self, handle: LayerHandle, batch: Sequence[Passenger]) -> None:
        """As the executor inside."""
        with self._notes.note("execute"):
            self._inner.run(handle, batch)

    def release(self, handle: LayerHandle) -> None:
        """As the executor inside."""
        self._inner.release(handle)

    def begin_pass(self, plan: Plan, sequence: int) -> None:
        """As the executor inside."""
        self._inner.begin_pass(plan, sequence)

    def close(self) -> None:
        """As the executor inside."""
        self._inner.close()


def main() -> None:
    """Draw the quickest of a few passes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--cold", action="store_true", help="read past the page cache")
    options = parser.parse_args()
    with Store.open(options.store) as store:
        spans = min(passes(store, options.bits, cold=options.cold), key=lambda spans: max(span.end for span in spans))
        draw(spans, f"{store.manifest.description.model}, {options.bits} bits", options.out)


def passes(store: Store, bits: int, *, cold: bool) -> Iterator[list[Span]]:
    """The spans of several passes, each on a clock that starts with it."""
    notes, runtime, sequence = Notes(), Runtime(), max(store.manifest.description.sequences)
    executor = NotedExecutor(choose_executor(ExecutorChoice.AUTO, runtime), notes)
    source = LayerSource(store, NotedReader(store, notes, direct=cold), executor)
    plan = uniform_plan(store.manifest, bits)
    plan = plan.with_residency([Residency.STREAMED] * len(plan.layers))
    nothing = Footprint(0, 0, 0, (LayerFootprint(0, 0),) * len(plan.layers), (0,) * len(plan.layers))
    activations = Activations(runtime, sequence, store.manifest.geometry.hidden)
    pipeline = Pipeline(source, Ledger())
    for _ in range(WARM_UPS):
        notes.spans.clear()
        start = time.perf_counter()
        pipeline.run(Pass(plan, sequence, nothing, 0), [activations], lambda: False)
        yield [Span(span.what, span.start - start, span.end - start) for span in notes.spans]
    pipeline.close()
    activations.close()
    runtime.close()


def draw(spans: Sequence[Span], title: str, out: Path) -> None:
    """One bar a span, a row for each kind."""
    figure, axes = pyplot.subplots(figsize=(9, 2.4), layout="constrained")
    for row, what in enumerate(ROWS):
        bars = [((span.start) * 1e3, (span.end - span.start) * 1e3) for span in spans if span.what == what]
        axes.broken_barh(bars, (row - 0.4, 0.8), color=COLOURS[what], edgecolor="white", linewidth=0.5)
    axes.set_yticks(range(len(ROWS)), ["execute", "load\n(reads included)", "read"])
    axes.set_xlabel("ms")
    axes.set_title(f"One streamed pass, as measured: {title}, one loading agent", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
