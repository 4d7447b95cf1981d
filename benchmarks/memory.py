"""Predicted against measured memory, for plans of every kind: streamed, resident, both, narrow, exact, several agents.

Run `python -m benchmarks.memory STORE...` (or without a store: BERT-base geometry with random weights). Every plan runs
in a process of its own, whose anonymous memory (each page once) is watched from outside; that of the idle agent, whose
engine is open but has not run, is taken off. The allowance for what runs around the model (heaps and stacks of an agent
that serves) is left out on both sides.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import packaged, sample_peak
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.memory import RUNNING_BYTES
from device_agent.plan import Plan, Residency, default_bitwidth, parse_plan, plan_document, uniform_plan
from device_agent.process_memory import anonymous_share
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.manifest import Manifest
from shard_store.reader import Store

MIB = 1 << 20
BUDGET_BYTES = 8 << 30
PASSES = 30
LOW, HIGH = 1.0, 1.15  # predicted over measured: never below, at most 15 % above


@dataclass(frozen=True, slots=True)
class Case:
    """A plan at a sequence length."""

    name: str
    sequence: int
    plan: Plan


@dataclass(frozen=True, slots=True)
class Result:
    """Bytes beyond the idle agent."""

    store: str
    case: str
    sequence: int
    predicted_bytes: int
    accounted_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_bytes / self.measured_bytes


def main() -> None:
    """Measure all plans, or (--child) run one in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object per plan")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        document = json.loads(options.child)
        run_child(options.stores[0], document["sequence"], parse_plan(document["plan"]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        results = [result for path in options.stores or [packaged(Path(temporary))] for result in measured(path)]
    if options.json:
        for result in results:
            print(json.dumps({**asdict(result), "ratio": result.ratio}))
    else:
        print_results(results)


def measured(path: Path) -> Iterator[Result]:
    """Every case of a store."""
    with Store.open(path) as store:
        manifest = store.manifest
    for case in cases(manifest):
        sys.stderr.write(f"{path.name}: {case.name}, sequence {case.sequence}\n")
        yield measure(path, case)


def cases(manifest: Manifest) -> Iterator[Case]:
    """Plans of every kind, at the shortest and the longest sequence."""
    bits, slices, depth = default_bitwidth(manifest), manifest.geometry.slices, manifest.geometry.layers
    whole = uniform_plan(manifest, bits)
    narrow = uniform_plan(manifest, bits, slices=max(1, slices // 3))
    half = [Residency.RESIDENT] * (depth // 2) + [Residency.STREAMED] * (depth - depth // 2)
    stored = [Residency.PRELOADED] * (depth // 2) + [Residency.STREAMED] * (depth - depth // 2)
    for sequence in sorted({min(manifest.description.sequences), max(manifest.description.sequences)}):
        yield Case(f"{bits} bits, streamed", sequence, _all(whole, Residency.STREAMED))
        yield Case(
            f"{bits} bits, one in flight", sequence, replace(_all(whole, Residency.STREAMED), layers_in_flight=1)
        )
        agents = replace(_all(whole, Residency.STREAMED), loading_agents=2, layers_in_flight=3)
        yield Case(f"{bits} bits, streamed, 2 agents, 3 in flight", sequence, agents)
        yield Case(f"{bits} bits, resident", sequence, _all(whole, Residency.RESIDENT))
        yield Case(f"{bits} bits, half resident", sequence, whole.with_residency(half))
        yield Case(f"{bits} bits, half preloaded", sequence, whole.with_residency(stored))
        yield Case(f"{bits} bits, narrow, streamed", sequence, _all(narrow, Residency.STREAMED))
        yield Case(f"{bits} bits, narrow, resident", sequence, _all(narrow, Residency.RESIDENT))
        if EXACT_BITWIDTH in manifest.bitwidths:
            exact = uniform_plan(manifest, EXACT_BITWIDTH)
            yield Case("32 bits, streamed", sequence, _all(exact, Residency.STREAMED))
            yield Case("32 bits, resident", sequence, _all(exact, Residency.RESIDENT))


def _all(plan: Plan, residency: Residency) -> Plan:
    return plan.with_residency([residency] * len(plan.layers))


def measure(store: Path, case: Case) -> Result:
    """Run a child and watch its memory from its first pass to its last."""
    document = {"sequence": case.sequence, "plan": plan_document(case.plan)}
    command = [sys.executable, "-m", "benchmarks.memory", str(store), "--child", json.dumps(document)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin and child.stdout
        facts = json.loads(child.stdout.readline())
        child.stdin.write("go\n")
        child.stdin.flush()
        peak = sample_peak(child)
        accounted = json.loads(child.stdout.readline())
    measured_bytes = peak - facts["idle_bytes"] + facts["fixed_bytes"]
    return Result(store.name, case.name, case.sequence, facts["predicted_bytes"], accounted, measured_bytes)


def run_child(store: Path, sequence: int, plan: Plan) -> None:
    """Open the engine, say what is predicted, wait for the watcher, run."""
    with Engine(store, EngineOptions(budget_bytes=BUDGET_BYTES)) as engine:
        footprint = engine.footprint(plan, sequence, 1)
        facts = {
            "predicted_bytes": footprint.peak_bytes(plan) - RUNNING_BYTES,
            "fixed_bytes": footprint.fixed_bytes - RUNNING_BYTES,
            "idle_bytes": anonymous_share(),
        }
        print(json.dumps(facts), flush=True)
        sys.stdin.readline()
        text = ["a " * (sequence - 2)]
        peaks = [engine.answer(text, plan, truncate=True).report.model_peak_bytes for _ in range(PASSES)]
        print(json.dumps(max(peaks) - RUNNING_BYTES), flush=True)


def print_results(results: list[Result]) -> None:
    """One row per plan."""
    table = Table("store", "plan", "sequence", "predicted MiB", "accounted MiB", "measured MiB", "predicted / measured")
    for result in results:
        sizes = (result.predicted_bytes, result.accounted_bytes, result.measured_bytes)
        mark = "" if LOW <= result.ratio <= HIGH else " !"
        table.add_row(
            result.store, result.case, str(result.sequence), *(f"{nbytes / MIB:.1f}" for nbytes in sizes),
            f"{result.ratio:.2f}{mark}",
        )  # fmt: skip
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
