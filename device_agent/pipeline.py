"""The pipeline: while one layer executes, the next ones are read and prepared, and each is freed after use.

Loading agents work ahead in the background, the caller's thread is the inference agent. The number of layers in flight
is bounded by construction: a layer is only handed to an agent when an earlier one has been freed or kept for good.
Their bytes are bounded by the admission: an agent waits until its layer has room.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle

from device_agent.admission import Admission
from device_agent.crew import Crew, Flight, Load
from device_agent.executor import Passenger
from device_agent.held_layers import HeldLayers
from device_agent.loading import LayerSource, LoadedLayer, LoadingAgent
from device_agent.memory import Footprint, LayerFootprint, Ledger
from device_agent.phases import PhaseClock, PhaseTimes
from device_agent.plan import LayerPlan, Plan, Residency, Schedule
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
class _Trip:
    """A pass under way."""

    job: Pass
    door: Admission
    flight: Flight
    used: list[LoadedLayer] = field(default_factory=list)  # executed, to be freed at the end


@dataclass(frozen=True, slots=True)
class _Turn:
    """A layer's place in the order of loading."""

    door: Admission
    number: int


class Pipeline:
    """Runs passes over the layers of one store, one at a time; the engine serialises."""

    def __init__(self, source: LayerSource, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger
        self._crew: Crew | None = None
        self._crew_bytes = 0
        self._held = HeldLayers(source, ledger)
        self._set_aside_bytes = 0
        self._going_on: _Trip | None = None  # of a pass that is expected again

    def run(
        self, job: Pass, batch: Sequence[Passenger], cancelled: Callable[[], bool], *, again: bool = False
    ) -> PhaseTimes:
        """Take the batch through all layers: load ahead, wait, execute, keep or free.

        again: the same pass will follow, so its first layers load while the last of this one execute, and wait for it,
        or for `rest`.
        """
        clock = PhaseClock()
        self.make_room(job)
        for layer in self._held.unread(job.plan):
            with clock.phase("read_ms"):
                self._held.preload(layer)
        trip, self._going_on = self._going_on or self._set_out(job, again=again), None
        try:
            if job.plan.schedule is Schedule.LOAD_FIRST:
                self._await_all(trip, clock, cancelled)
            for layer in job.plan.layers:
                _check(cancelled)
                if ready := self._held.ready(layer, job.sequence):
                    self._execute(ready, layer, job, batch, clock)
                else:
                    self._run_loaded(layer, trip, batch, clock)
        except BaseException:
            self._end(trip)
            raise
        if again and job.plan.schedule is Schedule.PIPELINED:
            self._going_on = trip
        else:
            self._end(trip)
        return clock.times()

    def _set_out(self, job: Pass, *, again: bool) -> _Trip:
        frees = job.plan.schedule is Schedule.PIPELINED
        door = Admission(self._ledger, job.budget_bytes, frees_on_the_way=frees)
        limit = job.plan.layers_in_flight if frees else len(job.plan.layers)
        loads = self._loads(job, door, job.plan.layers)
        if again and frees:
            # never two of the same layer, however few pass
            loads, limit = self._endless_loads(job, door), max(1, job.plan.most_in_flight)
        return _Trip(job, door, Flight(self._crew_of(job), loads, limit))

    def _end(self, trip: _Trip) -> None:
        trip.door.close()
        trip.flight.abandon(self._held.free)
        for loaded in trip.used:
            self._held.free(loaded)
        self._count_set_aside(trip.job)

    def rest(self) -> None:
        """Free what was loaded for a pass that is not to come."""
        if self._going_on is not None:
            trip, self._going_on = self._going_on, None
            self._end(trip)

    def _await_all(self, trip: _Trip, clock: PhaseClock, cancelled: Callable[[], bool]) -> None:
        with clock.phase("wait_ms"):
            for _ in trip.flight.arrivals():
                _check(cancelled)

    def _run_loaded(self, layer: LayerPlan, trip: _Trip, batch: Sequence[Passenger], clock: PhaseClock) -> None:
        with clock.phase("wait_ms"):
            loaded = trip.flight.take()
        clock.add("read_ms", loaded.read_ms)
        clock.add("prepare_ms", loaded.prepare_ms)
        try:
            self._execute(loaded, layer, trip.job, batch, clock)
        except BaseException:
            self._held.free(loaded)
            raise
        if layer.residency is Residency.RESIDENT:
            self._held.keep(layer, trip.job.sequence, loaded)
        elif trip.job.plan.schedule is Schedule.PIPELINED:
            self._held.free(loaded)
        else:
            trip.used.append(loaded)
            return
        trip.door.leave()
        trip.flight.launch()

    def _execute(
        self, loaded: LoadedLayer, layer: LayerPlan, job: Pass, batch: Sequence[Passenger], clock: PhaseClock
    ) -> None:
        work = ("execute", layer.kind, len(layer.bitwidths), job.sequence, len(batch))
        with clock.phase("execute_ms"), self._source.pace.kept(work):
            self._source.executor.run(loaded.handle, batch)

    def _loads(self, job: Pass, door: Admission, layers: Sequence[LayerPlan]) -> Iterator[Load]:
        costs = dict(zip(job.plan.layers, job.footprint.layers, strict=True))
        for turn, layer in enumerate(self._held.missing(layers, job.sequence)):
            yield partial(self._load, job, layer, costs[layer], _Turn(door, turn))

    def _endless_loads(self, job: Pass, door: Admission) -> Iterator[Load]:
        """Those of this pass, then, round after round, those of the layers that are freed after each use."""
        costs = dict(zip(job.plan.layers, job.footprint.layers, strict=True))
        passing = [layer for layer in job.plan.layers if layer.residency is not Residency.RESIDENT]
        for turn, layer in enumerate(chain(self._held.missing(job.plan.layers, job.sequence), cycle(passing))):
            yield partial(self._load, job, layer, costs[layer], _Turn(door, turn))

    def _load(self, job: Pass, layer: LayerPlan, cost: LayerFootprint, turn: _Turn, agent: LoadingAgent) -> LoadedLayer:
        on_top = cost.on_top(layer.residency)
        turn.door.enter(turn.number, cost.ready_bytes + on_top)
        try:
            loaded = agent.load(layer, job.sequence, cost.ready_bytes, self._held.preloaded.get(layer))
        except BaseException:
            turn.door.loaded(returned_bytes=cost.ready_bytes + on_top)
            raise
        turn.door.loaded(returned_bytes=on_top)
        return loaded

    def make_room(self, job: Pass) -> None:
        """Free what earlier passes kept and this one has no use for: layers, oldest first, until it fits the budget."""
        if self._going_on is not None and self._going_on.job == job:
            return  # its layers are loading already
        self.rest()
        self._source.executor.begin_pass(job.plan, job.sequence)
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0
        if self._crew is not None and self._crew_bytes != job.footprint.crew_bytes(job.plan):
            self._dismiss_crew()
        self._held.make_room(job.plan, job.sequence, _room_bytes(job))

    def idle_bytes(self, job: Pass) -> int:
        """Memory of layers that are of no use for a pass but may stay meanwhile."""
        return self._held.idle_bytes(job.plan, job.sequence, _room_bytes(job))

    @property
    def held_bytes(self) -> int:
        """What the model takes now."""
        return self._ledger.held_bytes

    def present(self, plan: Plan, sequence: int) -> frozenset[int]:
        """The layers of a plan that are in memory already, in the form that it wants them."""
        return self._held.present(plan, sequence)

    def settle(self, job: Pass, interrupted: Callable[[], bool]) -> bool:
        """Load what the plan keeps in memory, and get ready for what it streams. False if interrupted."""
        self.make_room(job)
        for layer in self._held.unread(job.plan):
            self._held.preload(layer)
        door = Admission(self._ledger, job.budget_bytes, frees_on_the_way=False)
        staying = [layer for layer in job.plan.layers if layer.residency is Residency.RESIDENT]
        for layer, load in zip(self._held.missing(staying, job.sequence), self._loads(job, door, staying), strict=True):
            if interrupted():
                return False
            self._held.keep(layer, job.sequence, self._crew_of(job).submit(load).result())
            door.leave()
        self._source.warm(job.plan, job.sequence)
        self._count_set_aside(job)
        return True

    def shrink(self, budget_bytes: int) -> None:
        """Free layers that are kept, from the top down, until what is held fits a budget."""
        self.rest()
        self._source.executor.close()
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0
        self._dismiss_crew()
        self._held.shrink(budget_bytes)

    def _count_set_aside(self, job: Pass) -> None:
        """Between passes, too, what the executor has set aside is held: frames of this pass's largest kind."""
        passing = zip(job.plan.layers, job.footprint.layers, strict=True)
        costs = [cost.ready_bytes for layer, cost in passing if layer.residency is not Residency.RESIDENT]
        self._set_aside_bytes = self._source.executor.set_aside * max(costs, default=0)
        self._ledger.add(self._set_aside_bytes)

    def _crew_of(self, job: Pass) -> Crew:
        if self._crew is None:
            self._crew = Crew(self._source, job.plan.loading_agents)
            self._crew_bytes = job.footprint.crew_bytes(job.plan)
            self._ledger.add(self._crew_bytes)
        return self._crew

    def _dismiss_crew(self) -> None:
        if self._crew is not None:
            self._crew.close()
            self._ledger.add(-self._crew_bytes)
            self._crew = None

    def close(self) -> None:
        """Free every layer and let the loading agents go."""
        self.rest()
        self._held.clear()
        self._dismiss_crew()
        self._source.executor.close()
        self._ledger.add(-self._set_aside_bytes)
        self._set_aside_bytes = 0


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Cancelled("cancelled: the client went away")


def _room_bytes(job: Pass) -> int:
    """What a pass leaves of its budget."""
    return job.budget_bytes - job.footprint.peak_bytes(job.plan)
