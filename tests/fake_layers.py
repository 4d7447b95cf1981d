"""Layers without weights: a source, loading agents and an executor that record what happens and fail on command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import cast

import pytest

from device_agent import crew
from device_agent.executor import Activations, LayerHandle
from device_agent.loading import LayerSource, LoadedLayer, Preloaded
from device_agent.pace import Pace
from device_agent.plan import LayerPlan, Plan, Residency

WAIT_SECONDS = 20.0  # far longer than any test: what never comes fails a test instead of hanging it
AGENT_BYTES = 1000


@dataclass(slots=True, eq=False)
class FakeHandle:
    """A loaded layer."""

    layer: LayerPlan
    sequence: int
    stays: bool = False  # it has run, and is there for the next pass


class FakeLayers:
    """Source and executor in one. `hooks` run at an event, such as ("load", 3), and may wait or raise."""

    agent_bytes = AGENT_BYTES
    set_aside = 0

    def __init__(self) -> None:
        self.executor = self
        self.pace = Pace()
        self.hooks: dict[tuple[str, int], Callable[[], object]] = {}
        self.events: list[tuple[str, int]] = []
        self.agents: list[FakeAgent] = []
        self.alive: list[FakeHandle] = []
        self.under_way = self.most_under_way = 0  # loading, loaded or executing, and not there to stay
        self.loading = self.most_loading = 0
        self._lock = Lock()

    def as_source(self) -> LayerSource:
        """For the pipeline, which needs no more of a source than what is here."""
        return cast(LayerSource, self)

    def of(self, what: str) -> list[int]:
        """The layers of one kind of event, in order."""
        with self._lock:
            return [layer for kind, layer in self.events if kind == what]

    def forget(self) -> None:
        """Begin to record anew; what is alive stays."""
        self.events.clear()
        self.hooks.clear()
        self.most_under_way = self.most_loading = 0

    def meet(self, what: str, layer: int) -> None:
        """Record an event, and do what the test wants to happen at it."""
        with self._lock:
            self.events.append((what, layer))
        self.hooks.get((what, layer), lambda: None)()

    def load(self, layer: LayerPlan, sequence: int) -> FakeHandle:
        """What a loading agent does."""
        with self._lock:
            self.loading += 1
            self.under_way += 1
            self.most_loading = max(self.most_loading, self.loading)
            self.most_under_way = max(self.most_under_way, self.under_way)
        handle = FakeHandle(layer, sequence)
        try:
            self.meet("load", layer.layer)
            self.meet("prepare", layer.layer)
        except BaseException:
            with self._lock:
                self.under_way -= 1
            raise
        finally:
            with self._lock:
                self.loading -= 1
        with self._lock:
            self.alive.append(handle)
        return handle

    def preload(self, layer: LayerPlan) -> Preloaded:
        """Read without preparing."""
        self.meet("preload", layer.layer)
        return Preloaded((memoryview(bytes(7)),), 7)

    def begin_pass(self, plan: Plan, sequence: int) -> None:
        """Only recorded."""
        self.meet("begin", sequence)

    def run(self, handle: LayerHandle, batch: Sequence[Activations]) -> None:
        """Execute."""
        fake = cast(FakeHandle, handle)
        assert fake in self.alive, "a layer that was freed is run"
        self.meet("run", fake.layer.layer)
        if fake.layer.residency is Residency.RESIDENT and not fake.stays:
            fake.stays = True
            with self._lock:
                self.under_way -= 1
        self.meet("ran", fake.layer.layer)

    def release(self, handle: LayerHandle) -> None:
        """Free; a second time is a mistake."""
        fake = cast(FakeHandle, handle)
        self.alive.remove(fake)
        self.meet("release", fake.layer.layer)
        if not fake.stays:
            with self._lock:
                self.under_way -= 1

    def close(self) -> None:
        """Only recorded."""
        self.meet("close", 0)


class FakeAgent:
    """A loading agent that must not be used by two threads at a time."""

    def __init__(self, source: FakeLayers) -> None:
        self._source = source
        self._busy = Lock()
        source.agents.append(self)

    def load(
        self, layer: LayerPlan, sequence: int, ready_bytes: int, preloaded: Preloaded | None = None
    ) -> LoadedLayer:
        """Load one layer; 2 ms of reading unless it was preloaded, 3 ms of preparing."""
        assert self._busy.acquire(blocking=False), "an agent is used by two threads"
        try:
            handle = self._source.load(layer, sequence)
        finally:
            self._busy.release()
        return LoadedLayer(cast(LayerHandle, handle), ready_bytes, 0.0 if preloaded else 2.0, 3.0)


def fake_layers(monkeypatch: pytest.MonkeyPatch) -> FakeLayers:
    """Layers whose crew consists of fake agents."""
    monkeypatch.setattr(crew, "LoadingAgent", FakeAgent)
    return FakeLayers()
