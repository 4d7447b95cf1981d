"""How long planning takes, and how far it stays from the optimum.

`python -m benchmarks.planner` plans for 12 layers x 12 slices x 7 bitwidths on a grid of flash speeds, processors,
targets and budgets; then compares `--instances` small random questions with the optimum of a mixed-integer program.
The gap is that of predicted quality, exp(-loss): the loss is in nats, so this is a ratio of likelihoods.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from benchmarks.planner_optimum import least_loss
from device_agent.memory import MIB
from device_agent.planning.ask import Ask
from device_agent.planning.facts import Facts
from device_agent.planning.planner import Planner, choose_plan
from shard_store.errors import BudgetError
from tests.planning_facts import Device, random_facts

_REPEATS = 5
SEQUENCE = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of planning over a grid of questions, each the best of several."""

    questions: int
    median_ms: float
    p95_ms: float
    worst_ms: float
    first_ms: float  # the first question of a planner, which also prepares what only depends on facts
    median_cpu_ms: float  # of the processor alone, for machines that do other work
    p95_cpu_ms: float
    worst_cpu_ms: float
    first_cpu_ms: float
    within_10_cpu_ms: int  # questions


@dataclass(frozen=True, slots=True)
class Gaps:
    """Distances to the optimum over the questions that can be met."""

    instances: int
    exact: int  # found the optimum
    mean_gap: float  # 1 - exp(least loss - found loss)
    p95_gap: float
    worst_gap: float
    worst_nats: float
    worst_of_range: float  # of what lies between the least of all losses and that of the quickest plan


def question(seed: int) -> tuple[Facts, Ask]:
    """A small random question that the program can express: no loading factor, as many reads for every choice."""
    random = np.random.default_rng(seed)
    bitwidths = [(2, 4, 8), (2, 3, 4, 6), (2, 3, 4, 5, 6, 8), (3, 8, 32), (2, 6, 32)][random.integers(5)]
    one_by_one = bool(random.integers(2))
    device = Device(
        bytes_per_ms=random.choice([84e3, 200e3, 500e3]), latency_ms=random.choice([0.1, 0.5]) if one_by_one else 0.0,
        layer_ms=random.choice([0.5, 3.0]), execute_ms=random.choice([1.0, 5.0, 20.0]), loading_factor=1.0,
    )  # fmt: skip
    layers, slices = int(random.integers(2, 5)), int(random.integers(2, 5))
    read_bytes = 1 if one_by_one else 1 << 30
    facts = random_facts(seed, layers, slices, bitwidths, device=device, read_bytes=read_bytes, sequence=SEQUENCE)
    ask = Ask(SEQUENCE, int(random.uniform(8, 24) * MIB), residency=bool(random.random() < 0.3))
    try:
        low, high = (choose_plan(facts, replace(ask, target_ms=target)).predicted_ms for target in (1e-3, None))
    except BudgetError:
        return question(seed + 1_000_000)
    return facts, replace(ask, target_ms=low + (high - low) * random.uniform(0.02, 0.95))


def gap(facts: Facts, ask: Ask) -> tuple[float, float] | None:
    """Predicted losses: (found, least). None for a question that nothing meets."""
    least = least_loss(facts, ask)
    if math.isinf(least):
        return None
    return choose_plan(facts, ask).predicted_loss, least


def measure_gaps(instances: int) -> Gaps:
    """The gaps of that many questions that can be met."""
    pairs: list[tuple[float, float]] = []
    shares: list[float] = []
    seed = 0
    while len(pairs) < instances:
        facts, ask = question(seed)
        seed += 1
        if (pair := gap(facts, ask)) is None:
            continue
        pairs.append(pair)
        losses = [choose_plan(facts, replace(ask, target_ms=target)).predicted_loss for target in (1e-3, None)]
        shares.append((pair[0] - pair[1]) / max(losses[0] - losses[1], 1e-9))
        print(f"\r{len(pairs)} of {instances} instances", end="", file=sys.stderr)
    print(file=sys.stderr)
    gaps = [1.0 - math.exp(least - found) for found, least in pairs]
    return Gaps(
        instances=instances,
        exact=sum(found <= least + 1e-6 for found, least in pairs),
        mean_gap=float(np.mean(gaps)),
        p95_gap=float(np.quantile(gaps, 0.95)),
        worst_gap=max(gaps),
        worst_nats=max(found - least for found, least in pairs),
        worst_of_range=max(shares),
    )


def grid() -> Iterator[tuple[Facts, Ask]]:
    """Questions about a model of BERT-base's size."""
    for bytes_per_ms in (84e3, 200e3, 500e3):
        for execute_ms in (2.0, 20.0):
            device = Device(bytes_per_ms=bytes_per_ms, execute_ms=execute_ms)
            facts = random_facts(0, 12, 12, (2, 3, 4, 5, 6, 8, 32), device=device, sequence=SEQUENCE)
            for mebibytes in (20, 40, 80, 200, 1000):
                for target_ms in (20.0, 50.0, 100.0, 150.0, 200.0, 400.0, 800.0, None):
                    yield facts, Ask(SEQUENCE, mebibytes * MIB, target_ms)


def measure_time() -> Timing:
    """Times of the grid."""
    best: list[float] = []
    cpu: list[float] = []
    first: list[tuple[float, float]] = []
    planners: dict[int, Planner] = {}
    for facts, ask in grid():
        if id(facts) not in planners:
            planners[id(facts)] = Planner(facts)
            first.append(_timed(planners[id(facts)], ask))
        times = [_timed(planners[id(facts)], ask) for _ in range(_REPEATS)]
        best.append(min(wall for wall, _ in times))
        cpu.append(min(cpu for _, cpu in times))
    return Timing(
        questions=len(best),
        median_ms=float(np.median(best)),
        p95_ms=float(np.quantile(best, 0.95)),
        worst_ms=max(best),
        first_ms=max(wall for wall, _ in first),
        median_cpu_ms=float(np.median(cpu)),
        p95_cpu_ms=float(np.quantile(cpu, 0.95)),
        worst_cpu_ms=max(cpu),
        first_cpu_ms=max(cpu for _, cpu in first),
        within_10_cpu_ms=sum(ms <= 10.0 for ms in cpu),
    )


def _timed(planner: Planner, ask: Ask) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    planner.choose(ask)
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=200, help="questions compared with the optimum")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    timing, gaps = measure_time(), measure_gaps(arguments.instances)
    if arguments.json:
        print(json.dumps({"time": asdict(timing), "gap": asdict(gaps)}))
        return
    for result in (timing, gaps):
        for name, value in asdict(result).items():
            print(f"{name:16} {value:.6g}")


if __name__ == "__main__":
    main()
