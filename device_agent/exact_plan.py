"""Agents, layers in flight and layers to keep, for an exact model under a memory cap (PIPELOAD's Pipeline Planner).

The pipeline is simulated layer by layer. Every step of the recurrence only ever takes the later of two times and adds
to it, so a state that is nowhere later than another can only lead to an end that is no later: the search over which
layers are kept keeps the states that no other beats, and is exact as long as they are few.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from device_agent.costs import DeviceCosts
from device_agent.memory import Footprint, check_budget
from device_agent.plan import MAX_LOADING_AGENTS, LayerPlan, Plan, Residency, Schedule
from shard_store.errors import PlanError

MOST_AGENTS = 4  # that are tried: flash is saturated, or the processor busy, long before
MOST_AHEAD = 3  # layers in flight beyond one for each agent
MOST_STATES = 16  # kept of each step of the search
_TIE_MS = 1e-6


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """What one layer takes, in milliseconds."""

    read_ms: float  # of the flash alone, at its full rate
    prepare_ms: float  # of one agent
    execute_ms: float


@dataclass(frozen=True, slots=True)
class ExactPlan:
    """A plan and when its passes end, once what stays is in memory."""

    plan: Plan
    makespan_ms: float
    peak_bytes: int
    streamed_layers: int  # read from flash in every pass


@dataclass(frozen=True, slots=True)
class _State:
    """When everything becomes free again, after some layers; in milliseconds."""

    executed: float
    flash: float
    agents: tuple[float, ...]  # ascending
    lanes: tuple[float, ...]  # cores that prepare, in the order of loading; ascending
    slots: tuple[float, ...]  # of layers in flight, in the order of use
    choice: tuple[Residency, ...] = ()

    def times(self) -> tuple[float, ...]:
        """All times, to be compared one by one."""
        return (self.executed, self.flash, *self.agents, *self.lanes, *self.slots)

    def after(self, times: LayerTimes, residency: Residency) -> "_State":
        """After one more layer."""
        choice = (*self.choice, residency)
        if residency is Residency.RESIDENT:
            return replace(self, executed=self.executed + times.execute_ms, choice=choice)
        return replace(self._passed(times, reads=residency is Residency.STREAMED), choice=choice)

    def _passed(self, times: LayerTimes, *, reads: bool) -> "_State":
        """After a layer that the next free agent reads, or has in memory as stored, and prepares, given a slot."""
        started = max(self.agents[0], self.slots[0])
        read = max(started, self.flash) + times.read_ms if reads else started
        ready = max(read, self.lanes[0]) + times.prepare_ms
        executed = max(self.executed, ready) + times.execute_ms
        return _State(
            executed, read if reads else self.flash, tuple(sorted((*self.agents[1:], ready))),
            tuple(sorted((*self.lanes[1:], ready))), (*self.slots[1:], executed),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shape:
    """All of a plan but which layers are kept."""

    agents: int
    in_flight: int
    kept_as: Residency

    def plan(self, plan: Plan, choice: Sequence[Residency]) -> Plan:
        """A plan of this shape."""
        return replace(
            plan.with_residency(choice), loading_agents=self.agents, layers_in_flight=self.in_flight,
            schedule=Schedule.PIPELINED,
        )  # fmt: skip

    def start(self, lanes: int) -> _State:
        """Before the first layer."""
        return _State(0.0, 0.0, (0.0,) * self.agents, (0.0,) * lanes, (0.0,) * self.in_flight)


def plan_exact(
    plan: Plan, footprint: Footprint, budget_bytes: int, times: Sequence[LayerTimes],
    *, agents: int | None = None, lanes: int = 1,
) -> ExactPlan:  # fmt: skip
    """The quickest way to run a plan's layers within the budget: agents, layers in flight, and what is kept.

    Layers are kept ready to run, or, smaller by their intermediate tensors, as stored: those are only prepared again.

    agents: None to choose; lanes: how many layers can be prepared at the same time beside execution. Raises BudgetError
    if not even one layer at a time fits. Of equally quick ways, the one that reads least from flash; of these, the one
    with the fewest agents and layers in flight.
    """
    if len(times) != len(plan.layers):
        raise PlanError(f"plan: times of {len(times)} layers given, the plan has {len(plan.layers)}")
    alone = _Shape(agents or 1, 1, Residency.RESIDENT)
    check_budget(alone.plan(plan, [Residency.STREAMED] * len(times)), footprint, budget_bytes)
    best: ExactPlan | None = None
    for shape in _shapes(len(times), agents):
        most = _most_kept(plan, footprint, budget_bytes, shape)
        if most is None or (best and _bound_ms(times, most) > best.makespan_ms + _TIE_MS):
            continue
        found = _best_choice(times, most, shape, lanes)
        chosen = shape.plan(plan, found.choice)
        candidate = ExactPlan(chosen, found.executed, footprint.peak_bytes(chosen), _streamed(chosen))
        if best is None or _is_better(candidate, best):
            best = candidate
    assert best is not None
    return best


def simulate(times: Sequence[LayerTimes], plan: Plan, lanes: int = 1) -> float:
    """When a pass of a pipelined plan ends, in milliseconds, if the layers that it keeps are in memory."""
    state = _Shape(plan.loading_agents, plan.layers_in_flight, Residency.RESIDENT).start(lanes)
    for layer, layer_times in zip(plan.layers, times, strict=True):
        state = state.after(layer_times, layer.residency or Residency.STREAMED)
    return state.executed


def layer_times(
    plan: Plan, costs: DeviceCosts, sizes: Sequence[tuple[int, int]], sequence: int, texts: int = 1
) -> tuple[LayerTimes, ...]:
    """A device's measured costs, for each layer of a plan. Raises CostsError for what was not measured.

    sizes: bytes as stored, and the number of reads that fetch them.
    """

    def one(layer: LayerPlan, nbytes: int, count: int) -> LayerTimes:
        execute_ms = texts * costs.execute_ms(layer.kind, len(layer.bitwidths), sequence, loading=True)
        return LayerTimes(costs.read.ms(nbytes, count), costs.prepare_ms(layer.bitwidths), execute_ms)

    return tuple(one(layer, *size) for layer, size in zip(plan.layers, sizes, strict=True))


def _shapes(layers: int, agents: int | None) -> Iterator[_Shape]:
    """What is worth a trial; the leanest is always among them."""
    for number in [agents] if agents else range(1, min(MOST_AGENTS, MAX_LOADING_AGENTS, layers) + 1):
        for in_flight in range(1 if agents else number, number + MOST_AHEAD + 1):
            if in_flight <= max(layers, 1):
                yield _Shape(number, in_flight, Residency.RESIDENT)
                yield _Shape(number, in_flight, Residency.PRELOADED)


def _most_kept(plan: Plan, footprint: Footprint, budget_bytes: int, shape: _Shape) -> int | None:
    """How many layers may be kept, whichever they are: the largest are taken. None if not even streaming fits."""
    count = len(plan.layers)
    sizes = [cost.ready_bytes for cost in footprint.layers]
    if shape.kept_as is Residency.PRELOADED:
        sizes = list(footprint.stored_bytes)
    by_size = sorted(range(count), key=lambda index: -sizes[index])

    def fits(kept: int) -> bool:
        largest = set(by_size[:kept])
        choice = [shape.kept_as if index in largest else Residency.STREAMED for index in range(count)]
        return footprint.peak_bytes(shape.plan(plan, choice)) <= budget_bytes

    return next((kept for kept in range(count, -1, -1) if fits(kept)), None)


def _streamed(plan: Plan) -> int:
    return sum(layer.residency is Residency.STREAMED for layer in plan.layers)


def _is_better(candidate: ExactPlan, best: ExactPlan) -> bool:
    if abs(candidate.makespan_ms - best.makespan_ms) > _TIE_MS:
        return candidate.makespan_ms < best.makespan_ms
    return candidate.streamed_layers < best.streamed_layers


def _bound_ms(times: Sequence[LayerTimes], kept: int) -> float:
    """No pass that keeps so many layers is quicker."""
    reads = sorted(layer.read_ms for layer in times)
    return max(sum(layer.execute_ms for layer in times), sum(reads[: len(reads) - kept]))


def _best_choice(times: Sequence[LayerTimes], kept: int, shape: _Shape, lanes: int) -> _State:
    """The state at the end of the quickest pass that keeps so many layers."""
    states = {0: [shape.start(lanes)]}  # by how many are kept so far
    for index, layer in enumerate(times):
        left = len(times) - index - 1
        following: dict[int, list[_State]] = {}
        for used, front in states.items():
            if used < kept:
                following.setdefault(used + 1, []).extend(state.after(layer, shape.kept_as) for state in front)
            if used + left >= kept:
                following.setdefault(used, []).extend(state.after(layer, Residency.STREAMED) for state in front)
        states = {used: _unbeaten(front) for used, front in following.items()}
    return min((state for front in states.values() for state in front), key=lambda state: state.executed)


def _unbeaten(states: Iterable[_State]) -> list[_State]:
    """Those that no other state is as early as in every respect, the earliest first, up to MOST_STATES."""
    kept: list[_State] = []
    for state in sorted(states, key=_State.times):
        mine = state.times()
        if not any(all(map(float.__le__, other.times(), mine)) for other in kept):
            kept.append(state)
            if len(kept) == MOST_STATES:
                break
    return kept
