"""The pipeline: while one layer executes, the next ones are read and prepared, and each is freed after use.

Loading agents work ahead in the background, the caller's thread is the inference agent. The number of layers in flight
is bounded by construction: a layer is only handed to an agent when an earlier one has been freed or kept for good.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from device_agent.crew import Crew, Flight, Load
from device_agent.executor import Activations
from device_agent.loading import LayerSource, LoadedLayer, LoadingAgent, Preloaded
from device_agent.memory import Footprint, LayerFootprint, Ledger
from device_agent.phases import PhaseClock, PhaseTimes
from device_agent.plan import LayerPlan, Plan, Residency
from shard_store.errors import StiError


class Cancelled(StiError):  # noqa: N818 (nobody's mistake)
    """Whoever asked has gone away."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One trip of a batch through the layers of a plan, at one sequence length."""

    plan: Plan
    sequence: int
    footprint: Footprint
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class _Key:
    """What makes two prepared layers interchangeable."""

    layer: int
    bitwidths: tuple[int, ...]
    sequence: int


class Pipeline:
    """Runs passes over the layers of one store, one at a time; the engine serialises."""

    def __init__(self, source: LayerSource, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger
        self._crew: Crew | None = None
        self._kept: dict[_Key, LoadedLayer] = {}
        self._preloaded: dict[LayerPlan, Preloaded] = {}
        self._set_aside_bytes = 0

    def run(self, job: Pass, batch: Sequence[Activations], cancelled: Callable[[], bool]) -> PhaseTimes:
        """Take the batch through all layers: load ahead, wait, execute, keep or free."""
        clock = PhaseClock()
        self.make_room(job)
        self._preload(job, clock)
        flight = Flight(self._crew_of(job.plan.loading_agents), self._loads(job), job.plan.layers_in_flight)
        try:
            for layer in job.plan.layers:
                if cancelled():
                    raise Cancelled("cancelled: the client went away")
                if kept := self._kept.get(_key(layer, job.sequence)):
                    with clock.phase("execute_ms"):
                        self._source.executor.run(kept.handle, batch)
                else:
                    self._run_loaded(layer, job.sequence, flight, batch, clock)
        finally:
            flight.abandon(self._free)
            self._count_set_aside(job)
        return clock.times()

    def _run_loaded(
        self, layer: LayerPlan, sequence: int, flight: Flight, batch: Sequence[Activations], clock: PhaseClock
    ) -> None:
        with clock.phase("wait_ms"):
            loaded = flight.take()
        clock.add("read_ms", loaded.read_ms)
        clock.add("prepare_ms", loaded.prepare_ms)
        try:
            with clock.phase("execute_ms"):
                self._source.executor.run(loaded.handle, batch)
        except BaseException:
            self._free(loaded)
            raise
        if layer.residency is Residency.RESIDENT:
            self._kept[_key(layer, sequence)] = loaded
        else:
            self._free(loaded)
        flight.launch()

    def _loads(self, job: Pass) -> Iterator[Load]:
        for layer, cost in zip(job.plan.layers, job.footprint.layers, strict=True):
            if _key(layer, job.sequence) not in self._kept:
                yield partial(self._load, layer, job.sequence, cost)

    def _load(self, layer: LayerPlan, sequence: int, cost: LayerFootprint, agent: LoadingAgent) -> LoadedLayer:
        with self._ledger.holding(cost.loading_bytes):
            self._ledger.add(cost.ready_bytes)
            try:
                return agent.load(layer, sequence, cost.ready_bytes, self._preloaded.get(layer))
            except BaseException:
                self._ledger.add(-cost.ready_bytes)
                raise

    def _preload(self, job: Pass, clock: PhaseClock) -> None:
        for layer in job.plan.layers:
            if layer.residency is Residency.PRELOADED:
                self._preload_layer(layer, clock)

    def _preload_layer(self, layer: LayerPlan, clock: PhaseClock) -> None:
        if layer not in self._preloaded:
            with clock.phase("read_ms"):
                self._preloaded[layer] = self._source.preload(layer)
            self._ledger.add(self._preloaded[layer].nbytes)

    def make_room(self, job: Pass) -> None:
        """Free what earlier passes kept and this one has no use for: layers, oldest first, until it fits the budget."""
        self._source.executor.begin_pass(job.plan, job.sequence)
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0
        for layer in self._preloaded.keys() - set(job.plan.layers):
            self._ledger.add(-self._preloaded.pop(layer).nbytes)
        if self._crew is not None and self._crew.agents != job.plan.loading_agents:
            self._dismiss_crew()
        for key in self._without_room(job):
            self._free(self._kept.pop(key))

    def _idle(self, job: Pass) -> list[_Key]:
        needed = {_key(layer, job.sequence) for layer in job.plan.layers if layer.residency is Residency.RESIDENT}
        return [key for key in self._kept if key not in needed]

    def _without_room(self, job: Pass) -> list[_Key]:
        """The layers of no use for this pass that must go, oldest first."""
        idle = self._idle(job)
        idle_bytes = sum(self._kept[key].nbytes for key in idle)
        excess_bytes = idle_bytes - (job.budget_bytes - job.footprint.peak_bytes(job.plan))
        going: list[_Key] = []
        for key in idle:
            if excess_bytes <= 0:
                break
            excess_bytes -= self._kept[key].nbytes
            going.append(key)
        return going

    def idle_bytes(self, job: Pass) -> int:
        """Memory of layers that are of no use for a pass but may stay meanwhile."""
        going = set(self._without_room(job))
        return sum(self._kept[key].nbytes for key in self._idle(job) if key not in going)

    def present(self, plan: Plan, sequence: int) -> frozenset[int]:
        """The layers of a plan that are in memory already, in the form that it wants them."""
        kept = (layer for layer in plan.layers if layer.residency is Residency.RESIDENT)
        stored = (layer for layer in plan.layers if layer.residency is Residency.PRELOADED)
        return frozenset(
            [layer.layer for layer in kept if _key(layer, sequence) in self._kept]
            + [layer.layer for layer in stored if layer in self._preloaded]
        )

    def settle(self, job: Pass, interrupted: Callable[[], bool]) -> bool:
        """Load what the plan keeps in memory, and get ready for what it streams. False if interrupted."""
        clock = PhaseClock()
        self.make_room(job)
        crew = self._crew_of(job.plan.loading_agents)
        for layer, cost in zip(job.plan.layers, job.footprint.layers, strict=True):
            if interrupted():
                return False
            if layer.residency is Residency.PRELOADED:
                self._preload_layer(layer, clock)
            elif layer.residency is Residency.RESIDENT and _key(layer, job.sequence) not in self._kept:
                load = partial(self._load, layer, job.sequence, cost)
                self._kept[_key(layer, job.sequence)] = crew.submit(load).result()
        self._source.warm(job.plan, job.sequence)
        self._count_set_aside(job)
        return True

    def shrink(self, budget_bytes: int) -> None:
        """Free layers that are kept, from the top down, until what is held fits a budget."""
        self._source.executor.close()
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0
        self._dismiss_crew()
        for layer in sorted(self._preloaded, key=lambda layer: layer.layer, reverse=True):
            if self._ledger.held_bytes > budget_bytes:
                self._ledger.add(-self._preloaded.pop(layer).nbytes)
        for key in sorted(self._kept, key=lambda key: key.layer, reverse=True):
            if self._ledger.held_bytes > budget_bytes:
                self._free(self._kept.pop(key))

    def _count_set_aside(self, job: Pass) -> None:
        """Between passes, too, what the executor has set aside is held: frames of this pass's largest kind."""
        passing = zip(job.plan.layers, job.footprint.layers, strict=True)
        costs = [cost.ready_bytes for layer, cost in passing if layer.residency is not Residency.RESIDENT]
        self._set_aside_bytes = self._source.executor.set_aside * max(costs, default=0)
        self._ledger.add(self._set_aside_bytes)

    def _crew_of(self, agents: int) -> Crew:
        if self._crew is None:
            self._crew = Crew(self._source, agents)
            self._ledger.add(agents * self._source.agent_bytes)
        return self._crew

    def _dismiss_crew(self) -> None:
        if self._crew is not None:
            self._crew.close()
            self._ledger.add(-self._crew.agents * self._source.agent_bytes)
            self._crew = None

    def _free(self, loaded: LoadedLayer) -> None:
        self._source.executor.release(loaded.handle)
        self._ledger.add(-loaded.nbytes)

    def close(self) -> None:
        """Free every layer and let the loading agents go."""
        for loaded in self._kept.values():
            self._free(loaded)
        self._kept.clear()
        self._ledger.add(-sum(preloaded.nbytes for preloaded in self._preloaded.values()))
        self._preloaded.clear()
        self._dismiss_crew()
        self._source.executor.close()
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0


def _key(layer: LayerPlan, sequence: int) -> _Key:
    return _Key(layer.layer, layer.bitwidths, sequence)
