"""Plans and forecasts by one state of a device's costs and of the margins that its targets need; remembered."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import lru_cache, partial

from device_agent.lateness import LEAST_MARGIN, length_of
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.planning.choice import Choice
from device_agent.planning.facts import Facts
from device_agent.planning.latency import Forecast, forecast
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.planner import Planner
from device_agent.planning.schedule import Span

_CHOICES_KEPT = 256
_MUCH_BETTER = 0.9  # a new plan must lose less than that of the loss of one that still keeps the target


class Outlook:
    """margins: by length of the target, where it is not the least."""

    def __init__(self, facts: Facts, margins: Mapping[int, float]) -> None:
        self.facts = facts
        self._margins = dict(margins)
        self._held: dict[Ask, Choice] = {}  # what runs already, and is still good enough
        self._choose = lru_cache(_CHOICES_KEPT)(Planner(facts).choose)
        self._forecast = lru_cache(_CHOICES_KEPT)(partial(_forecast, facts))
        self._peak = lru_cache(_CHOICES_KEPT)(partial(_peak, facts))

    def with_margins(self, margins: Mapping[int, float]) -> "Outlook":
        """The same costs, and all that has been planned by them, with other margins."""
        other = copy(self)
        other._margins, other._held = dict(margins), {}
        return other

    def choose(self, ask: Ask) -> Choice:
        """The best plan for when all that should stay is in memory, with a margin if one can be. Raises BudgetError."""
        return self._held.get(ask) or self.best(ask)

    def best(self, ask: Ask) -> Choice:
        """The same, whatever runs already."""
        best = self._choose(self.with_margin(ask))
        return best if best.met else self._choose(ask)

    def hold(self, ask: Ask, old: Choice) -> None:
        """Go on with the old plan if it will keep the target and is about as good: another takes time to load.

        Half the margin is enough for that: costs that are found by few runs go up and down, and plans should not.
        """
        best, expected = self.best(ask), self.forecast(old.plan, ask)
        good = old.met and best.met and best.predicted_loss >= _MUCH_BETTER * old.predicted_loss
        if good and in_time(expected, self.with_margin(ask, share=0.5)):
            self._held[ask] = replace(old, predicted_ms=expected.total_ms)

    def forecast(self, plan: Plan, ask: Ask) -> Forecast:
        """How a plan will go."""
        return self._forecast(plan, ask)

    def peak_bytes(self, plan: Plan, ask: Ask) -> int:
        """What a plan takes at most."""
        return self._peak(plan, ask)

    def with_margin(self, ask: Ask, share: float = 1.0) -> Ask:
        """For a target that is shorter by a share of the margin, but never by less than the least."""
        if ask.target_ms is None:
            return ask
        beyond = self._margins.get(length_of(ask.target_ms), LEAST_MARGIN) - 1.0
        return replace(ask, target_ms=ask.target_ms / max(1.0 + share * beyond, LEAST_MARGIN))

    def limit(self, ask: Ask, best: Choice) -> Ask:
        """The margin is given up where no plan leaves it."""
        limit = self.with_margin(ask)
        return limit if limit.target_ms is None or best.predicted_ms <= limit.target_ms else ask


def _forecast(facts: Facts, plan: Plan, ask: Ask) -> Forecast:
    return forecast(facts, plan, ask.sequence, ask.texts)


def _peak(facts: Facts, plan: Plan, ask: Ask) -> int:
    return predicted_peak_bytes(facts, plan, ask.sequence, ask.texts)


def in_time(expected: Forecast, ask: Ask) -> bool:
    """Whether a run that goes so keeps the target."""
    return ask.target_ms is None or expected.total_ms <= ask.target_ms


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
