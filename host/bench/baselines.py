"""Plans of the baselines: one bitwidth for all weights, the best submodel that is predicted to keep the target."""

from collections.abc import Iterator
from dataclasses import dataclass

from device_agent.lateness import LEAST_MARGIN
from device_agent.plan import LayerPlan, Plan, Residency, Schedule
from device_agent.planning.facts import Facts
from device_agent.planning.latency import forecast, read_ms
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.planning.quality import predicted_loss
from host.bench.methods import Method, MethodKind

_MARGINS = (LEAST_MARGIN, 1.1, 1.2, 1.3, 1.5)
_SCHEDULES = {MethodKind.LOAD_EXEC: Schedule.LOAD_FIRST}


@dataclass(frozen=True, slots=True)
class Baseline:
    """A plan and what it is predicted to do. fits: within the target; if none does, it is the fastest."""

    plan: Plan
    predicted_ms: float
    predicted_loss: float
    predicted_peak_bytes: int
    fits: bool


def plans_with_margins(facts: Facts, method: Method, target_ms: float, sequence: int) -> Iterator[Baseline]:
    """As plan_baseline, with ever larger margins below the target, like those that STI's plans leave: different plans.

    Those that do not fit come last, and only if none does.
    """
    found: list[Baseline] = []
    for margin in _MARGINS:
        baseline = plan_baseline(facts, method, target_ms / margin, sequence)
        if baseline.fits and all(baseline.plan != other.plan for other in found):
            found.append(baseline)
            yield baseline
    if not found:
        yield plan_baseline(facts, method, target_ms, sequence)


def plan_baseline(facts: Facts, method: Method, target_ms: float, sequence: int) -> Baseline:
    """The submodel of least predicted loss among those in time, then the fastest; the fastest of all if none is.

    Raises CostsError for what was not measured, PlanError for a sequence that the store has no layers for.
    """
    candidates = [_predicted(facts, plan, target_ms, sequence) for plan in submodels(facts, method)]
    fitting = [candidate for candidate in candidates if candidate.fits]
    if fitting:
        return min(fitting, key=lambda candidate: (candidate.predicted_loss, candidate.predicted_ms))
    return min(candidates, key=lambda candidate: candidate.predicted_ms)


def submodels(facts: Facts, method: Method) -> Iterator[Plan]:
    """Every depth and width."""
    for layers in facts.profile.layer_choices:
        for slices in range(1, facts.geometry.slices + 1):
            yield submodel(facts, method, len(layers), slices)


def submodel(facts: Facts, method: Method, depth: int, slices: int) -> Plan:
    """A method's plan at one depth and width."""
    assert method.bits is not None, "the planner makes the plans of STI"
    residency = Residency.RESIDENT if method.preloads else Residency.STREAMED
    layers = facts.profile.layer_choices[depth - 1]
    return Plan(
        tuple(LayerPlan(layer, (method.bits,) * slices, residency) for layer in layers),
        schedule=_SCHEDULES.get(method.kind, Schedule.PIPELINED),
    )


def predicted_ms(facts: Facts, plan: Plan, sequence: int) -> float:
    """Time of an answer to one text, once what stays is in memory."""
    if plan.schedule is not Schedule.LOAD_FIRST:
        return forecast(facts, plan, sequence).total_ms
    costs = facts.costs
    loads = sum(read_ms(facts, layer) + costs.prepare_ms(layer.bitwidths) for layer in plan.layers)
    executes = sum(costs.execute_ms(layer.kind, plan.slices, sequence, loading=False) for layer in plan.layers)
    return loads + executes + costs.pass_ms


def _predicted(facts: Facts, plan: Plan, target_ms: float, sequence: int) -> Baseline:
    total_ms = predicted_ms(facts, plan, sequence)
    return Baseline(
        plan=plan,
        predicted_ms=total_ms,
        predicted_loss=predicted_loss(facts.profile, plan),
        predicted_peak_bytes=predicted_peak_bytes(facts, plan, sequence),
        fits=total_ms <= target_ms,
    )
