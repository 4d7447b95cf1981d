"""Agents, layers in flight and resident layers for an exact model under a memory cap (PIPELOAD's Pipeline Planner).

The pipeline is simulated layer by layer. Every step of the recurrence only ever takes the later of two times and adds
to it, so a state that is nowhere later than another can only lead to an end that is no later: the search over which
layers stay keeps the states that no other beats, and is exact as long as they are few.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from device_agent.costs import DeviceCosts
from device_agent.memory import Footprint, check_budget
from device_agent.plan import MAX_LOADING_AGENTS, LayerPlan, Plan, Residency, Schedule
from shard_store.errors import PlanError

MOST_AGENTS = 4  # that are tried: flash is saturated, or the processor busy, long before
MOST_AHEAD = 3  # layers in flight beyond one for each agent
MOST_STATES = 24  # kept of each step of the search


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


@dataclass(frozen=True, slots=True)
class _State:
    """When everything becomes free again, after some layers; in milliseconds."""

    executed: float
    flash: float
    agents: tuple[float, ...]  # ascending
    lanes: tuple[float, ...]  # cores that prepare, ascending
    slots: tuple[float, ...]  # of layers in flight, in the order of use
    resident: tuple[bool, ...] = ()

    def times(self) -> tuple[float, ...]:
        """All times, to be compared one by one."""
        return (self.executed, self.flash, *self.agents, *self.lanes, *self.slots)

    def stay(self, times: LayerTimes) -> "_State":
        """After a layer that is in memory."""
        return replace(self, executed=self.executed + times.execute_ms, resident=(*self.resident, True))

    def stream(self, times: LayerTimes) -> "_State":
        """After a layer that the next free agent reads and prepares, as soon as there is a slot for it."""
        read = max(self.agents[0], self.slots[0], self.flash) + times.read_ms
        ready = max(read, self.lanes[0]) + times.prepare_ms
        executed = max(self.executed, ready) + times.execute_ms
        return _State(
            executed, read, tuple(sorted((*self.agents[1:], ready))), tuple(sorted((*self.lanes[1:], ready))),
            (*self.slots[1:], executed), (*self.resident, False),
        )  # fmt: skip


def plan_exact(
    plan: Plan, footprint: Footprint, budget_bytes: int, times: Sequence[LayerTimes],
    *, agents: int | None = None, lanes: int = 1,
) -> ExactPlan:  # fmt: skip
    """The quickest way to run a plan's layers within the budget: agents, layers in flight, and who stays.

    agents: None to choose; lanes: how many layers can be prepared at the same time beside execution. Raises BudgetError
    if not even one layer at a time fits. Of equally quick ways, the one with the least memory.
    """
    if len(times) != len(plan.layers):
        raise PlanError(f"plan: times of {len(times)} layers given, the plan has {len(plan.layers)}")
    alone = _shaped(plan, (False,) * len(times), agents or 1, 1)
    check_budget(alone, footprint, budget_bytes)
    best: ExactPlan | None = None
    for shape in _shapes(len(times), agents):
        stays = _most_resident(plan, footprint, budget_bytes, shape)
        if stays is None:
            continue
        found = _best_residency(times, stays, shape, lanes)
        chosen = _shaped(plan, found.resident, *shape)
        candidate = ExactPlan(chosen, found.executed, footprint.peak_bytes(chosen))
        if best is None or _rank(candidate) < _rank(best):
            best = candidate
    assert best is not None
    return best


def simulate(times: Sequence[LayerTimes], plan: Plan, lanes: int = 1) -> float:
    """When a pass of a pipelined plan ends, in milliseconds, if its resident layers are in memory."""
    state = _start(plan.loading_agents, plan.layers_in_flight, lanes)
    for layer, layer_times in zip(plan.layers, times, strict=True):
        stays = layer.residency is Residency.RESIDENT
        state = state.stay(layer_times) if stays else state.stream(layer_times)
    return state.executed


def layer_times(
    plan: Plan, costs: DeviceCosts, stored_bytes: Sequence[int], reads: Sequence[int], sequence: int
) -> tuple[LayerTimes, ...]:
    """A device's measured costs, for each layer of a plan. Raises CostsError for what was not measured."""

    def one(layer: LayerPlan, nbytes: int, count: int) -> LayerTimes:
        execute_ms = costs.execute_ms(layer.kind, len(layer.bitwidths), sequence, loading=True)
        return LayerTimes(costs.read.ms(nbytes, count), costs.prepare_ms(layer.bitwidths), execute_ms)

    return tuple(map(one, plan.layers, stored_bytes, reads))


def _shapes(layers: int, agents: int | None) -> Iterator[tuple[int, int]]:
    """Agents and layers in flight that are worth a trial; the leanest is always among them."""
    for number in [agents] if agents else range(1, min(MOST_AGENTS, MAX_LOADING_AGENTS, layers) + 1):
        for in_flight in range(1 if agents else number, number + MOST_AHEAD + 1):
            if in_flight <= max(layers, 1):
                yield number, in_flight


def _most_resident(plan: Plan, footprint: Footprint, budget_bytes: int, shape: tuple[int, int]) -> int | None:
    """How many layers may stay, whichever they are: the largest are taken. None if not even streaming fits."""
    count = len(plan.layers)
    by_size = sorted(range(count), key=lambda index: -footprint.layers[index].ready_bytes)

    def fits(stays: int) -> bool:
        largest = set(by_size[:stays])
        trial = _shaped(plan, [index in largest for index in range(count)], *shape)
        return footprint.peak_bytes(trial) <= budget_bytes

    return next((stays for stays in range(count, -1, -1) if fits(stays)), None)


def _best_residency(times: Sequence[LayerTimes], stays: int, shape: tuple[int, int], lanes: int) -> _State:
    """The state at the end of the quickest pass with so many layers resident."""
    states = {0: [_start(*shape, lanes)]}  # by how many are resident so far
    for index, layer in enumerate(times):
        left = len(times) - index - 1
        following: dict[int, list[_State]] = {}
        for used, front in states.items():
            if used < stays:
                following.setdefault(used + 1, []).extend(state.stay(layer) for state in front)
            if used + left >= stays:
                following.setdefault(used, []).extend(state.stream(layer) for state in front)
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


def _start(agents: int, in_flight: int, lanes: int) -> _State:
    return _State(0.0, 0.0, (0.0,) * agents, (0.0,) * lanes, (0.0,) * in_flight)


def _shaped(plan: Plan, resident: Sequence[bool], agents: int, in_flight: int) -> Plan:
    choice = [Residency.RESIDENT if stays else Residency.STREAMED for stays in resident]
    plan = plan.with_residency(choice)
    return replace(plan, loading_agents=agents, layers_in_flight=in_flight, schedule=Schedule.PIPELINED)


def _rank(candidate: ExactPlan) -> tuple[float, int]:
    return round(candidate.makespan_ms, 6), candidate.peak_bytes
