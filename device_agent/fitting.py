"""Plans as passes within a budget: what they cost in memory, and which of their layers can stay."""

import os
from collections.abc import Callable
from functools import lru_cache

from device_agent.costs import DeviceCosts
from device_agent.exact_plan import LayerTimes, layer_times, plan_exact
from device_agent.loading import LayerSource
from device_agent.memory import Footprint, fit_residency, layer_footprint
from device_agent.pipeline import Pass
from device_agent.plan import Plan
from device_agent.store_facts import text_bytes
from shard_store.template import TemplateKind

_PLANS_KEPT = 64  # plans whose footprint and residency are remembered


class Fitting:
    """Fits plans for one store. costs: for plans that leave agents and residency to the device; None: never asked."""

    def __init__(
        self, source: LayerSource, fixed_bytes: int, threads: int, costs: Callable[[], DeviceCosts] | None
    ) -> None:
        self._source = source
        self._fixed_bytes = fixed_bytes
        self._lanes = max(1, (os.cpu_count() or 1) - threads)
        self._costs = costs
        self._footprint_of = lru_cache(_PLANS_KEPT)(self._footprint)
        self._fitted = lru_cache(_PLANS_KEPT)(self._fit_to_budget)

    def fit(self, plan: Plan, sequence: int, texts: int, budget_bytes: int) -> Pass:
        """A plan as a pass within the budget. Raises BudgetError."""
        in_place = self._source.executor.in_place(plan.slices, sequence)
        return self._fitted(plan, sequence, texts, budget_bytes, in_place)

    def footprint(self, plan: Plan, sequence: int, texts: int) -> Footprint:
        """What a pass of `texts` texts would cost in memory, as far as is known now."""
        return self._footprint_of(plan, sequence, texts, self._source.executor.in_place(plan.slices, sequence))

    def _fit_to_budget(self, plan: Plan, sequence: int, texts: int, budget_bytes: int, in_place: bool) -> Pass:
        footprint = self._footprint_of(plan, sequence, texts, in_place)
        if self._costs and plan.is_open:
            fit_residency(plan, footprint, budget_bytes)  # what cannot fit has not been measured either
            times = self._layer_times(plan, footprint, sequence, texts, self._costs())
            plan = plan_exact(plan, footprint, budget_bytes, times, lanes=self._lanes).plan
        return Pass(fit_residency(plan, footprint, budget_bytes), sequence, footprint, budget_bytes)

    def _layer_times(
        self, plan: Plan, footprint: Footprint, sequence: int, texts: int, costs: DeviceCosts
    ) -> tuple[LayerTimes, ...]:
        reads = (len(self._source.reads(layer)) for layer in plan.layers)
        sizes = list(zip(footprint.stored_bytes, reads, strict=True))
        return layer_times(plan, costs, sizes, sequence, texts)

    def _footprint(self, plan: Plan, sequence: int, texts: int, in_place: bool) -> Footprint:
        source = self._source
        layers = tuple(
            layer_footprint(
                source.template(layer, sequence), source.geometry,
                in_place=in_place and layer.kind is TemplateKind.INT8,
            )
            for layer in plan.layers
        )  # fmt: skip
        return Footprint(
            fixed_bytes=self._fixed_bytes,
            activation_bytes=texts * text_bytes(source.geometry, sequence),
            agent_bytes=max(source.agent_bytes[layer.kind, plan.slices] for layer in plan.layers),
            layers=layers,
            stored_bytes=tuple(source.reader.buffer_bytes(layer.shards()) for layer in plan.layers),
        )
