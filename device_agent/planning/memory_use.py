"""Predicted memory of a plan: the footprint that the engine accounts by, from facts instead of an open store."""

from device_agent.memory import Footprint
from device_agent.plan import Plan
from device_agent.planning.facts import Facts
from shard_store.errors import PlanError


def plan_footprint(facts: Facts, plan: Plan, sequence: int, texts: int = 1) -> Footprint:
    """What a pass of so many texts holds. Raises PlanError for a layer that the store has no template of."""
    try:
        layers = tuple(facts.layer_memory[layer.kind, plan.slices, sequence] for layer in plan.layers)
        activation_bytes = texts * facts.text_bytes[sequence]
    except KeyError as error:
        raise PlanError(f"plan: the store has no layers of {plan.slices} slices for sequence {sequence}") from error
    return Footprint(
        fixed_bytes=facts.fixed_bytes,
        activation_bytes=activation_bytes,
        agent_bytes=max(facts.agent_bytes[layer.kind, plan.slices] for layer in plan.layers),
        layers=layers,
        stored_bytes=tuple(
            sum(facts.shard_bytes[key.bitwidth][key.layer][key.slice] for key in layer.shards())
            for layer in plan.layers
        ),
    )


def predicted_peak_bytes(facts: Facts, plan: Plan, sequence: int, texts: int = 1) -> int:
    """The most that a run of the plan holds at one time."""
    return plan_footprint(facts, plan, sequence, texts).peak_bytes(plan)
