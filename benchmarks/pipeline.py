"""Streaming against residency: BERT-base geometry with random weights, 8 bits, sequence 64.

Run `python -m benchmarks.pipeline`. Every configuration runs in a process of its own, which times its passes and then
has its memory sampled from outside. Warm: shards in the page cache. Cold: read past it (direct IO), from this disk.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.random_model import BERT_BASE, sentence, write_random_bert
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.inplace import ExecutorChoice
from device_agent.phases import PhaseTimes
from device_agent.plan import Plan, Residency
from device_agent.process_memory import anonymous_share
from shard_store.errors import FormatError
from shard_store.reader import Store

SEQUENCE = 64
MIB = 1 << 20
BUDGET_BYTES = 2 << 30
IDLE_LINE = "idle"


@dataclass(frozen=True, slots=True)
class Configuration:
    """One way of running all layers."""

    name: str
    bits: int
    resident: bool
    direct: bool
    agents: int = 1
    in_flight: int = 2
    executor: str = "auto"

    @property
    def cache(self) -> str:
        """Where weights come from."""
        return "memory" if self.resident else "cold" if self.direct else "warm"


@dataclass(frozen=True, slots=True)
class Result:
    """Median pass of a configuration; memory in bytes."""

    configuration: Configuration
    times: PhaseTimes
    idle_bytes: int
    peak_bytes: int
    predicted_bytes: int

    @property
    def unhidden(self) -> float:
        """Share of the makespan that the longest phase alone does not explain, agents sharing reads and preparation."""
        agents = self.configuration.agents
        longest = max(self.times.read_ms / agents, self.times.prepare_ms / agents, self.times.execute_ms)
        return 1 - longest / self.times.total_ms


CONFIGURATIONS = (
    Configuration("32 bits, all resident", 32, resident=True, direct=False),
    Configuration("8 bits, all resident", 8, resident=True, direct=False),
    Configuration("8 bits, streamed", 8, resident=False, direct=False),
    Configuration("8 bits, streamed, runtime packs", 8, resident=False, direct=False, executor="constant"),
    Configuration("8 bits, streamed, 2 agents", 8, resident=False, direct=False, agents=2, in_flight=3),
    Configuration("8 bits, streamed", 8, resident=False, direct=True),
    Configuration("8 bits, streamed, 2 agents", 8, resident=False, direct=True, agents=2, in_flight=3),
    Configuration("32 bits, streamed", 32, resident=False, direct=False),
    Configuration("32 bits, streamed", 32, resident=False, direct=True),
)


def main() -> None:
    """Measure all configurations, or (--child) one of them inside its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the packaged model here (default: a temporary folder)")
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print one JSON object per configuration")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.folder, Configuration(**json.loads(options.child)), options.passes)
        return
    with tempfile.TemporaryDirectory() as temporary:
        store = packaged(options.folder or Path(temporary))
        results = [measure(store, configuration, options.passes) for configuration in CONFIGURATIONS]
    if options.json:
        for result in results:
            print(json.dumps({**asdict(result), "unhidden": result.unhidden}))
    else:
        print_results(results)


def packaged(folder: Path) -> Path:
    """The store of a random BERT-base, made if it is not there yet."""
    path = folder / "bert-base-random.store"
    try:
        Store.open(path).close()
    except FormatError:
        from host.package import PackageOptions, package  # noqa: PLC0415 - imports TensorFlow, which the children must not

        sys.stderr.write("packaging a random BERT-base ...\n")
        write_random_bert(folder / "model", BERT_BASE)
        options = PackageOptions((8, 32), None, (SEQUENCE,), name="BERT-base (random weights)")
        package(str(folder / "model"), path, options, lambda _stage, _done, _total: None)
    return path


def measure(store: Path, configuration: Configuration, passes: int) -> Result:
    """Run a child; sample its anonymous memory while it goes through its passes a second time."""
    command = [
        sys.executable, "-m", "benchmarks.pipeline", "--folder", str(store), "--passes", str(passes),
        "--child", json.dumps(asdict(configuration)),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin and child.stdout
        idle = int(child.stdout.readline().split()[1])
        times = json.loads(child.stdout.readline())
        child.stdin.write("again\n")
        child.stdin.flush()
        peak = sample_peak(child)
    predicted = times.pop("predicted_bytes")
    return Result(configuration, PhaseTimes(**times), idle, peak, predicted)


def sample_peak(child: "subprocess.Popen[str]") -> int:
    """The most anonymous memory seen until the child ends."""
    rollup, peak = Path(f"/proc/{child.pid}/smaps_rollup"), 0
    while child.poll() is None:
        with suppress(OSError, IndexError):  # it ends while it is being looked at
            peak = max(peak, anonymous_share(rollup))
        time.sleep(0.0005)
    return peak


def run_child(store: Path, configuration: Configuration, passes: int) -> None:
    """Open the engine, say what memory it has when idle, run, report the median pass, run again for the sampler."""
    options = EngineOptions(
        budget_bytes=BUDGET_BYTES, direct=configuration.direct, executor=ExecutorChoice(configuration.executor)
    )
    with Engine(store, options) as engine:
        print(IDLE_LINE, anonymous_share(), flush=True)
        plan = plan_of(engine, configuration)
        text = [sentence(SEQUENCE)]
        engine.answer(text, plan)
        reports = [engine.answer(text, plan).report for _ in range(passes)]
        median = statistics.median_low(report.times.total_ms for report in reports)
        times = next(report.times for report in reports if report.times.total_ms == median)
        print(json.dumps({**asdict(times), "predicted_bytes": max(r.model_peak_bytes for r in reports)}), flush=True)
        sys.stdin.readline()
        for _ in range(4 * passes):
            engine.answer(text, plan)


def plan_of(engine: Engine, configuration: Configuration) -> Plan:
    """The whole model in one way."""
    plan = engine.uniform_plan(configuration.bits)
    residency = Residency.RESIDENT if configuration.resident else Residency.STREAMED
    plan = plan.with_residency([residency] * len(plan.layers))
    return replace(plan, loading_agents=configuration.agents, layers_in_flight=configuration.in_flight)


def print_results(results: list[Result]) -> None:
    """One row per configuration, with ratios to all of the model in memory at 8 bits."""
    resident = next(r for r in results if r.configuration.resident and r.configuration.bits == 8)
    table = Table(
        "weights", "from", "total ms", "read", "prepare", "execute", "wait", "x resident", "not hidden",
        "memory over idle", "accounted", title=f"BERT-base geometry, 12 x 12 shards, sequence {SEQUENCE}, 1 thread",
    )  # fmt: skip
    for result in results:
        times = result.times
        table.add_row(
            result.configuration.name, result.configuration.cache, f"{times.total_ms:.1f}", f"{times.read_ms:.1f}",
            f"{times.prepare_ms:.1f}", f"{times.execute_ms:.1f}", f"{times.wait_ms:.1f}",
            f"{times.total_ms / resident.times.total_ms:.2f}",
            "" if result.configuration.resident else f"{result.unhidden:.0%}",
            f"{(result.peak_bytes - result.idle_bytes) / MIB:.1f} MiB", f"{result.predicted_bytes / MIB:.1f} MiB",
        )  # fmt: skip
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
