"""What the baselines are planned from: the same facts of store and device that the agent's planner has."""

from pathlib import Path

from device_agent.costs import DeviceCosts
from device_agent.plan import Plan
from device_agent.planning.facts import Facts
from device_agent.planning.memory_use import predicted_peak_bytes
from device_agent.store_facts import store_facts
from host.bench.baselines import submodel
from host.bench.methods import Method, MethodKind
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.reader import Store

_SHARE = 10  # STI may have a tenth of the memory that the whole model takes


def bench_facts(store_path: Path, costs: DeviceCosts) -> Facts:
    """Facts of a store on the device that was measured. Raises PlanError for a store without a profile."""
    with Store.open(store_path) as store:
        return store_facts(store, costs)


def whole_model_bytes(facts: Facts, sequence: int) -> int:
    """Memory of the whole model, ready to run at full precision (at the highest bitwidth that there is)."""
    return predicted_peak_bytes(facts, _whole(facts, MethodKind.PRELOAD_MODEL, max(facts.shard_bytes)), sequence)


def most_bytes(facts: Facts, sequence: int) -> int:
    """Memory of the most greedy baseline."""
    bits = max(facts.shard_bytes)
    kinds = (MethodKind.PRELOAD_MODEL, MethodKind.LOAD_EXEC)
    return max(predicted_peak_bytes(facts, _whole(facts, kind, bits), sequence) for kind in kinds)


def default_memory_bytes(facts: Facts, sequence: int) -> int:
    """A tenth of the whole model, or what streaming it at full width takes at least, if that is more."""
    lattice = [bits for bits in facts.shard_bytes if bits != EXACT_BITWIDTH] or list(facts.shard_bytes)
    streamed = _whole(facts, MethodKind.STD_PIPELINE, max(lattice))
    least = predicted_peak_bytes(facts, streamed, sequence)
    return max(whole_model_bytes(facts, sequence) // _SHARE, least)


def _whole(facts: Facts, kind: MethodKind, bits: int) -> Plan:
    return submodel(facts, Method(kind, bits), facts.geometry.layers, facts.geometry.slices)
