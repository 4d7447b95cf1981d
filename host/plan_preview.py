"""A dry run of the planner: what an agent would run for a target and a budget on a device that was measured."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from device_agent.costs_file import read_costs
from device_agent.key_values import cache_bytes
from device_agent.plan import Residency, plan_document
from device_agent.planning.ask import Ask
from device_agent.planning.choice import Choice
from device_agent.planning.latency import Forecast, forecast
from device_agent.planning.planner import choose_plan
from device_agent.store_facts import planned_bitwidths, store_facts
from shard_store.errors import PlanError
from shard_store.manifest import Manifest
from shard_store.reader import Store


@dataclass(frozen=True, slots=True)
class LayerPreview:
    """One layer of the run, in ms since its start."""

    layer: int
    bits: str  # such as "8 x 10, 6 x 2"
    residency: str
    agent: int | None
    read_ms: float
    prepare_ms: float
    execute_ms: float
    ends_ms: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What the planner chose, and how it expects the run to go."""

    model: str
    device: str
    sequence: int
    target_ms: float | None
    budget_bytes: int
    choice: Choice
    expected: Forecast

    @property
    def layers(self) -> tuple[LayerPreview, ...]:
        """Layer by layer."""
        rows = []
        for layer, spans in zip(self.choice.plan.layers, self.expected.layers, strict=True):
            residency = layer.residency or Residency.STREAMED
            read_ms, prepare_ms = (span.end_ms - span.start_ms if span else 0.0 for span in (spans.read, spans.prepare))
            execute_ms = spans.execute.end_ms - spans.execute.start_ms
            rows.append(
                LayerPreview(
                    layer.layer, _counted(layer.bitwidths), residency.value, spans.agent,
                    read_ms, prepare_ms, execute_ms, spans.execute.end_ms,
                )
            )  # fmt: skip
        return tuple(rows)

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        choice = self.choice
        return {
            "model": self.model, "device": self.device, "sequence": self.sequence, "target_ms": self.target_ms,
            "budget_bytes": self.budget_bytes, "predicted_ms": choice.predicted_ms,
            "predicted_loss": choice.predicted_loss, "predicted_peak_bytes": choice.predicted_peak_bytes,
            "met": choice.met, "reason": choice.reason,
            "layers": [asdict(layer) for layer in self.layers], "plan": plan_document(choice.plan),
        }  # fmt: skip


def preview_plan(
    store_path: Path, costs_path: Path, *, target_ms: float | None, budget_bytes: int, tokens: int | None = None,
    first: bool = False,
) -> Preview:  # fmt: skip
    """Ask the planner as an agent would. first: nothing is in memory yet. Raises StiError.

    Of a decoder a step of one token is planned, and tokens are those of a text whose KV cache takes part of the budget.
    """
    costs = read_costs(costs_path)
    with Store.open(store_path) as store:
        facts = store_facts(store, costs)
        manifest = store.manifest
    sequence, cached_bytes = _bucket(manifest, tokens), _cache_bytes(manifest, tokens)
    ask = Ask(
        sequence, budget_bytes - cached_bytes, target_ms=target_ms, residency=not first,
        bitwidths=planned_bitwidths(manifest),
    )  # fmt: skip
    choice = choose_plan(facts, ask)
    choice = replace(choice, predicted_peak_bytes=choice.predicted_peak_bytes + cached_bytes)
    expected = forecast(facts, choice.plan, sequence)
    return Preview(manifest.description.model, costs.device, sequence, target_ms, budget_bytes, choice, expected)


def _bucket(manifest: Manifest, tokens: int | None) -> int:
    sequences = manifest.description.sequences
    if manifest.description.generation is not None:
        return min(sequences)
    if tokens is None:
        return max(sequences)
    fitting = [sequence for sequence in sequences if sequence >= tokens]
    if tokens < 1 or not fitting:
        raise PlanError(f"{tokens} tokens asked, the store runs 1 to {max(sequences)}")
    return min(fitting)


def _cache_bytes(manifest: Manifest, tokens: int | None) -> int:
    """Of a decoder's text; by default as long as can be."""
    if manifest.description.generation is None:
        return 0
    most, geometry = manifest.description.max_tokens, manifest.geometry
    if tokens is not None and not 1 <= tokens <= most:
        raise PlanError(f"{tokens} tokens asked, the model has room for {most}")
    return cache_bytes(geometry, geometry.layers, geometry.slices, most if tokens is None else tokens)


def _counted(bitwidths: tuple[int, ...]) -> str:
    counts = [(bitwidth, bitwidths.count(bitwidth)) for bitwidth in sorted(set(bitwidths), reverse=True)]
    return ", ".join(f"{bitwidth} x {count}" for bitwidth, count in counts)
