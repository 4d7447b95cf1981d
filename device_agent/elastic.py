"""Chooses what to run for a target: from the profile, this device's costs and what is in memory already."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from device_agent.costs import DeviceCosts
from device_agent.drift import Drift, corrected
from device_agent.goal import MAX_TARGET_MS
from device_agent.lateness import Lateness, length_of
from device_agent.memory import LayerFootprint
from device_agent.outlook import Outlook, in_time, phases_of
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.choice import Choice
from device_agent.planning.facts import Facts, LayerKey
from device_agent.planning.latency import Forecast
from device_agent.promise import Promise
from shard_store.bitpack import CODE_PLANES
from shard_store.errors import BudgetError

_ASKS_KEPT = 4  # that are planned anew when costs change
_MOST_RUNS = 16  # with costs that are known to be off, if there never is time to plan anew

PresentLayers = Callable[[Plan], frozenset[int]]  # the plan's layers that are in memory, as it wants them


@dataclass(frozen=True, slots=True)
class Decision:
    """What to run now, what that promises, and the plan to get ready for when there is time."""

    plan: Plan
    promise: Promise
    settled: Plan


def _never() -> bool:
    return False


class Elastic:
    """The planner of one engine; corrects its costs by what runs show.

    Planning takes a good part of a short target, so plans are made anew between requests where that can be.
    """

    def __init__(self, facts: Facts) -> None:
        self._measured = facts.costs
        self._drift = Drift()
        self._asked: list[Ask] = []  # lately, the newest last
        self._lateness: defaultdict[int, Lateness] = defaultdict(Lateness)  # by length of the target
        self._runs_since_drift = 0
        self._outlook = Outlook(facts, {})
        self._renewal: Iterator[None] | None = None

    @property
    def costs(self) -> DeviceCosts:
        """In use now."""
        return self._outlook.facts.costs

    @property
    def latest(self) -> Ask | None:
        """What was asked last."""
        return self._asked[-1] if self._asked else None

    @property
    def renewing(self) -> bool:
        """Whether `refresh` was interrupted and should be called again."""
        return self._renewal is not None

    def choose(self, ask: Ask) -> Choice:
        """The best plan for when all that should stay is in memory, with a margin if one can be. Raises BudgetError."""
        return self._outlook.choose(ask)

    def decide(self, ask: Ask, present: PresentLayers) -> Decision:
        """What to run now. Layers that are to stay but are not there yet are streamed: to load them takes longer.

        If the target does not allow for that, a plan that streams everything is tried. Raises BudgetError.
        """
        self._asked = [*(other for other in self._asked if other != ask), ask][-_ASKS_KEPT:]
        best = self.choose(ask)
        settled = best.plan
        runs = [(self._outlook.forecast(plan, ask), plan, best) for plan in self._as_present(settled, ask, present)]
        limit = self._outlook.limit(ask, best)
        if not runs or (best.met and not in_time(runs[0][0], limit)):
            cold = self.choose(replace(ask, residency=False))
            runs += [
                (self._outlook.forecast(plan, ask), plan, cold) for plan in self._as_present(cold.plan, ask, present)
            ]
        kept = (run for run in runs if in_time(run[0], limit))
        expected, plan, choice = next(kept, None) or min(runs, key=lambda run: run[0].total_ms)
        return Decision(plan, self._promise(expected, plan, choice, ask), settled)

    def _as_present(self, plan: Plan, ask: Ask, present: PresentLayers) -> Iterator[Plan]:
        """The plan without the residents that are missing, if there is memory to stream them."""
        there = present(plan)
        streamed = plan.with_residency(
            [layer.residency if layer.layer in there else Residency.STREAMED for layer in plan.layers]
        )
        for in_flight in sorted({streamed.layers_in_flight, 1}, reverse=True):
            agents = min(streamed.loading_agents, in_flight)
            now = replace(streamed, layers_in_flight=in_flight, loading_agents=agents)
            if self._outlook.peak_bytes(now, ask) <= ask.budget_bytes:
                yield now
                return

    def _promise(self, expected: Forecast, plan: Plan, choice: Choice, ask: Ask) -> Promise:
        reason = choice.reason
        if reason is None and not in_time(expected, ask):
            reason = (
                f"the layers that are to stay are not in memory yet; this run takes about {expected.total_ms:.0f} ms, "
                f"later ones {choice.predicted_ms:.0f} ms"
            )
        peak_bytes = self._outlook.peak_bytes(plan, ask)
        return Promise(expected.total_ms, choice.predicted_loss, peak_bytes, reason, phases_of(expected))

    def adopt(self, layer_memory: Mapping[LayerKey, LayerFootprint]) -> None:
        """Plan with other sizes of layers from now on: the executor has found out what it can do here."""
        self._renewal = None
        self._outlook = Outlook(replace(self._outlook.facts, layer_memory=layer_memory), self._margins())

    def observe(self, promised: PhaseTimes, measured: PhaseTimes, plan: Plan) -> None:
        """Learn from a pass for the latest ask; what it shows is used once a `refresh` is through."""
        share = _unpacked_share(plan, self.costs)
        self._drift.observe(promised, measured, plan.loading_agents, unpacked_share=share)
        late = self._late(self.latest)
        if not self.renewing:  # by what is known already, the promise was not a good one
            late.observe((measured.total_ms + measured.outside_ms) / promised.total_ms)
        due = self.renewing or late.off or late.outgrown
        self._runs_since_drift = self._runs_since_drift + 1 if due else 0
        if self._runs_since_drift > _MOST_RUNS:
            self.refresh()

    def _late(self, ask: Ask | None) -> Lateness:
        target_ms = ask.target_ms if ask else None
        return self._lateness[length_of(target_ms or MAX_TARGET_MS)]

    def _margins(self) -> dict[int, float]:
        return {length: late.margin for length, late in self._lateness.items()}

    def refresh(self, interrupted: Callable[[], bool] = _never) -> bool:
        """Correct the costs if runs have shown them to be off, and plan anew for what was asked lately.

        That takes some milliseconds for every ask. If interrupted, it goes on at the next call, and until it is
        through, what was known before stays in use. True once something has changed.
        """
        if self._renewal is None:
            if not self._runs_since_drift:
                return False
            self._renewal = self._renew()
        for _ in self._renewal:
            if interrupted():
                return False
        self._renewal = None
        return True

    def _renew(self) -> Iterator[None]:
        """In steps, and what was asked last first."""
        late, factors = self._late(self.latest), self._drift.factors
        if late.off:
            late.corrected()
            for other in self._lateness.values():
                other.expect_others()
            costs = corrected(self._measured, factors)
            outlook = Outlook(replace(self._outlook.facts, costs=costs), self._margins())
        else:
            factors = self._drift.used
            late.adjust()
            outlook = self._outlook.with_margins(self._margins())
        for ask in reversed(self._asked):
            with suppress(BudgetError):  # of an ask from before the budget shrank
                outlook.hold(ask, self.choose(ask))
                yield
                outlook.best(replace(ask, residency=False))
                yield
        self._outlook = outlook
        self._drift.use(factors)
        self._runs_since_drift = 0


def _unpacked_share(plan: Plan, costs: DeviceCosts) -> float:
    """Of the time that a pass takes to prepare shards, the part at 2 to 6 bits."""
    shards = [
        (bits, costs.prepare[layer.kind].shard_ms[bits])
        for layer in plan.layers
        if layer.residency is not Residency.RESIDENT
        for bits in layer.bitwidths
    ]
    total_ms = sum(ms for _, ms in shards)
    return sum(ms for bits, ms in shards if bits in CODE_PLANES) / total_ms if total_ms else 0.0
