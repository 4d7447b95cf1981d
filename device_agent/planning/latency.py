"""Predicted time of a plan, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_agent.plan import LayerPlan, Plan, Residency, Schedule
from device_agent.planning.facts import Facts
from device_agent.planning.schedule import LayerSpans, Way, Work, schedule


@dataclass(frozen=True, slots=True)
class Forecast:
    """A run as it is predicted, in ms since its start."""

    total_ms: float
    pass_ms: float  # of total_ms, outside the layers: tokenising, embedding, the head
    preload_ms: float  # before the first layer: reading what the plan preloads but is not in memory yet
    layers: tuple[LayerSpans, ...]


def forecast(
    facts: Facts, plan: Plan, sequence: int, texts: int = 1, present: frozenset[int] | None = None
) -> Forecast:
    """What a run of `texts` texts takes, first-layer stall included. Raises CostsError for what was not measured.

    present: indices of the layers that memory already holds as the plan wants them (ready, or as stored); None: all
    that are to stay, as between runs of the same plan.
    """
    kept = {p.layer for p in plan.layers if p.residency in (Residency.RESIDENT, Residency.PRELOADED)}
    held = kept if present is None else kept & present
    preload_ms = sum(
        read_ms(facts, p) for p in plan.layers if p.residency is Residency.PRELOADED and p.layer not in held
    )
    work = [_work(facts, p, sequence, texts, ready=p.layer in held) for p in plan.layers]
    indices = [p.layer for p in plan.layers]
    layers = schedule(indices, work, way_of(facts, plan), preload_ms)
    pass_ms = facts.costs.pass_ms
    return Forecast(layers[-1].execute.end_ms + pass_ms, pass_ms, preload_ms, tuple(layers))


def way_of(facts: Facts, plan: Plan) -> Way:
    """How the plan's loads pass through the pipeline of this device."""
    pipelined = plan.schedule is Schedule.PIPELINED
    return Way(
        agents=plan.loading_agents,
        in_flight=plan.layers_in_flight if pipelined else len(plan.layers),
        lanes=facts.prepare_lanes,
        loading_factor=facts.costs.loading_factor,
        load_first=plan.schedule is Schedule.LOAD_FIRST,
        crowding_factor=facts.costs.crowding_factor,
    )


def _work(facts: Facts, layer: LayerPlan, sequence: int, texts: int, *, ready: bool) -> Work:
    costs = facts.costs
    execute_ms = costs.execute_ms(layer.kind, len(layer.bitwidths), sequence, loading=False) * texts
    if ready and layer.residency is Residency.RESIDENT:
        return Work(0.0, 0.0, execute_ms, loads=False)
    stored = layer.residency is Residency.PRELOADED  # read before the pass, if not long ago
    return Work(0.0 if stored else read_ms(facts, layer), costs.prepare_ms(layer.bitwidths), execute_ms)


def read_ms(facts: Facts, layer: LayerPlan) -> float:
    """Time to read a layer's shards."""
    sizes = [facts.shard_bytes[key.bitwidth][key.layer][key.slice] for key in layer.shards()]
    return facts.costs.read.ms(sum(sizes), count_reads(layer.bitwidths, sizes, facts.read_bytes))


def count_reads(bitwidths: Sequence[int], sizes: Sequence[int], read_bytes: int) -> int:
    """Reads for shards of these bitwidths and sizes: neighbours of one bitwidth share one, up to `read_bytes`."""
    reads = group_bytes = last = 0
    for bitwidth, nbytes in zip(bitwidths, sizes, strict=True):
        full = group_bytes + nbytes > read_bytes
        reads += full or bitwidth != last
        group_bytes = nbytes if full else group_bytes + nbytes
        last = bitwidth
    return reads
