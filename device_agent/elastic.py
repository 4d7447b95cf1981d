"""Chooses what to run for a target: from the profile, this device's costs and what is in memory already."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from device_agent.costs import DeviceCosts
from device_agent.drift import Drift
from device_agent.lateness import Lateness
from device_agent.memory import LayerFootprint
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan, Residency
from device_agent.planning.ask import Ask
from device_agent.planning.choice import Choice
from device_agent.planning.facts import Facts, LayerKey
from device_agent.planning.latency import Forecast, forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.planner import Planner
from device_agent.planning.schedule import Span
from device_agent.promise import Promise
from shard_store.errors import BudgetError

_CHOICES_KEPT = 256
_MUCH_BETTER = 0.9  # a new plan must lose less than that of the loss of one that still keeps the target
_ASKS_KEPT = 4  # that are planned anew at once when costs change
_MOST_RUNS = 16  # with costs that are known to be off, if there never is time to plan anew

PresentLayers = Callable[[Plan], frozenset[int]]  # the plan's layers that are in memory, as it wants them


@dataclass(frozen=True, slots=True)
class Decision:
    """What to run now, what that promises, and the plan to get ready for when there is time."""

    plan: Plan
    promise: Promise
    settled: Plan


class Elastic:
    """The planner of one engine; remembers its choices, and corrects its costs by what runs show.

    Planning takes a good part of a short target, so plans are made anew between requests where that can be.
    """

    def __init__(self, facts: Facts) -> None:
        self._measured = facts.costs
        self._drift = Drift()
        self._asked: list[Ask] = []  # lately, the newest last
        self._lateness = Lateness()
        self._runs_since_drift = 0
        self._plan_with(facts)

    def _plan_with(self, facts: Facts) -> None:
        self._facts = facts
        self._held: dict[Ask, Choice] = {}  # what runs already, and is still good enough
        self._choose = lru_cache(_CHOICES_KEPT)(Planner(facts).choose)
        self._forecast = lru_cache(_CHOICES_KEPT)(partial(_forecast, facts))
        self._peak = lru_cache(_CHOICES_KEPT)(partial(_peak, facts))

    @property
    def costs(self) -> DeviceCosts:
        """In use now."""
        return self._facts.costs

    def choose(self, ask: Ask) -> Choice:
        """The best plan for when all that should stay is in memory, with a margin if one can be. Raises BudgetError."""
        return self._held.get(ask) or self._best(ask)

    def _best(self, ask: Ask) -> Choice:
        best = self._choose(self._with_margin(ask))
        return best if best.met else self._choose(ask)

    def decide(self, ask: Ask, present: PresentLayers) -> Decision:
        """What to run now. Layers that are to stay but are not there yet are streamed: to load them takes longer.

        If the target does not allow for that, a plan that streams everything is tried. Raises BudgetError.
        """
        self._asked = [*(other for other in self._asked if other != ask), ask][-_ASKS_KEPT:]
        best = self.choose(ask)
        settled = best.plan
        runs = [(self._forecast(plan, ask), plan, best) for plan in self._as_present(settled, ask, present)]
        limit = self._limit(ask, best)
        if not runs or (best.met and not _in_time(runs[0][0], limit)):
            cold = self.choose(replace(ask, residency=False))
            runs += [(self._forecast(plan, ask), plan, cold) for plan in self._as_present(cold.plan, ask, present)]
        in_time = (run for run in runs if _in_time(run[0], limit))
        expected, plan, choice = next(in_time, None) or min(runs, key=lambda run: run[0].total_ms)
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
            if self._peak(now, ask) <= ask.budget_bytes:
                yield now
                return

    def _promise(self, expected: Forecast, plan: Plan, choice: Choice, ask: Ask) -> Promise:
        reason = choice.reason
        if reason is None and not _in_time(expected, ask):
            reason = (
                f"the layers that are to stay are not in memory yet; this run takes about {expected.total_ms:.0f} ms, "
                f"later ones {choice.predicted_ms:.0f} ms"
            )
        return Promise(expected.total_ms, choice.predicted_loss, self._peak(plan, ask), reason, phases_of(expected))

    def adopt(self, layer_memory: Mapping[LayerKey, LayerFootprint]) -> None:
        """Plan with other sizes of layers from now on: the executor has found out what it can do here."""
        self._plan_with(replace(self._facts, layer_memory=layer_memory))

    def observe(self, promised: PhaseTimes, measured: PhaseTimes, loading_agents: int) -> None:
        """Learn from a pass that was promised; what it shows is used from the next `refresh` on."""
        self._lateness.observe((measured.total_ms + measured.outside_ms) / promised.total_ms)
        self._drift.observe(promised, measured, loading_agents)
        drifted = self._lateness.off or self._lateness.outgrown
        self._runs_since_drift = self._runs_since_drift + 1 if drifted else 0
        if self._runs_since_drift > _MOST_RUNS:
            self.refresh()

    @property
    def latest(self) -> Ask | None:
        """What was asked last."""
        return self._asked[-1] if self._asked else None

    def _with_margin(self, ask: Ask) -> Ask:
        return ask if ask.target_ms is None else replace(ask, target_ms=ask.target_ms / self._lateness.margin)

    def _limit(self, ask: Ask, best: Choice) -> Ask:
        """The margin is given up where no plan leaves it."""
        limit = self._with_margin(ask)
        return limit if limit.target_ms is None or best.predicted_ms <= limit.target_ms else ask

    def refresh(self) -> bool:
        """Correct the costs if runs have shown them to be off, and plan anew for what was asked lately.

        False if nothing changed.
        """
        if not self._runs_since_drift:
            return False
        before = {ask: choice for ask in self._asked for choice in self._known(ask)}
        self._runs_since_drift = 0
        if self._lateness.off:
            self._lateness.corrected()
            self._plan_with(replace(self._facts, costs=self._drift.correct(self._measured)))
        else:
            self._lateness.adjust()
        self._held = {}
        for ask, old in before.items():
            with suppress(BudgetError):  # of an ask from before the budget shrank
                self._hold(ask, old)
                self._best(replace(ask, residency=False))
        return True

    def _known(self, ask: Ask) -> Iterator[Choice]:
        with suppress(BudgetError):
            yield self.choose(ask)

    def _hold(self, ask: Ask, old: Choice) -> None:
        """Go on with the old plan if it will keep the target and is about as good: another takes time to load."""
        best, expected = self._best(ask), self._forecast(old.plan, ask)
        good = old.met and best.met and best.predicted_loss >= _MUCH_BETTER * old.predicted_loss
        if good and _in_time(expected, self._with_margin(ask)):
            self._held[ask] = replace(old, predicted_ms=expected.total_ms)


def _forecast(facts: Facts, plan: Plan, ask: Ask) -> Forecast:
    return forecast(facts, plan, ask.sequence, ask.texts)


def _peak(facts: Facts, plan: Plan, ask: Ask) -> int:
    return predicted_peak_bytes(facts, plan, ask.sequence, ask.texts)


def phases_of(expected: Forecast) -> PhaseTimes:
    """A forecast, added up by phase as a run is."""
    return PhaseTimes(
        read_ms=sum(_ms(layer.read) for layer in expected.layers),
        prepare_ms=sum(_ms(layer.prepare) for layer in expected.layers),
        execute_ms=sum(_ms(layer.execute) for layer in expected.layers),
        total_ms=expected.total_ms,
        outside_ms=expected.pass_ms,
    )


def _ms(span: Span | None) -> float:
    return span.end_ms - span.start_ms if span else 0.0


def _in_time(expected: Forecast, ask: Ask) -> bool:
    return ask.target_ms is None or expected.total_ms <= ask.target_ms
