"""Measures one cell: a process of its own in a control group, its memory watched from outside."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any

from host.exact.cells import Cell
from host.exact.cgroup import Cgroup
from shard_store.errors import DeviceError

_MODULE = "device_agent.exact_trial"
_PERIOD_S = 0.002


@dataclass(frozen=True, slots=True)
class Measured:
    """One cell's result: the median request in milliseconds, memory in bytes."""

    key: str
    subject: str
    sequence: int
    flash: str
    flash_bytes_per_s: int | None
    way: str
    schedule: str
    bits: int
    cap_bytes: int | None
    agents: int
    layers_in_flight: int
    layers: int
    resident_layers: int
    preloaded_layers: int
    total_ms: float
    fastest_ms: float
    read_ms: float
    prepare_ms: float
    execute_ms: float
    wait_ms: float
    requests: int
    peak_bytes: int  # over the idle agent, as the kernel counts what it cannot take back
    accounted_bytes: int
    predicted_bytes: int
    predicted_ms: float | None
    read_bytes: int
    kills: int

    @property
    def bound_ms(self) -> float | None:
        """The time that the flash needs for the bytes of one request, whatever the engine does."""
        return None if self.flash_bytes_per_s is None else self.read_bytes / self.flash_bytes_per_s * 1e3


def measure(cell: Cell, requests: int) -> Measured:
    """Run the cell. Raises DeviceError if it fails or the kernel cannot cap, slow down or count."""
    with Cgroup() as group, tempfile.TemporaryFile("w+") as errors:
        if cell.flash.bytes_per_s is not None:
            group.throttle_reads(cell.subject.store, cell.flash.bytes_per_s)
        command = group.command([sys.executable, "-m", _MODULE])
        with subprocess.Popen(  # noqa: S603 - our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as child:
            try:
                result, peak = _watch(child, group, cell, requests)
            finally:
                child.kill()
        if result is None:
            errors.seek(0)
            said = errors.read().strip().splitlines() or ["nothing"]
            raise DeviceError(f"{cell.key}: ended with {child.returncode}, {group.kills()} kills; it said: {said[-1]}")
        return _measured(cell, requests, result, peak, group.kills())


def _watch(
    child: "subprocess.Popen[str]", group: Cgroup, cell: Cell, requests: int
) -> tuple[dict[str, Any] | None, int]:
    """The child's result, if any, and the most memory over the idle agent that was seen."""
    assert child.stdin and child.stdout
    _tell(child.stdin, json.dumps(_trial(cell, requests)))
    if not child.stdout.readline():
        child.wait()
        return None, 0
    group.drop_cache()
    idle = group.held_bytes()
    if cell.way.cap_bytes is not None:
        group.limit_memory(idle + cell.way.cap_bytes)
    _tell(child.stdin, "")
    peak = 0
    while child.poll() is None:
        peak = max(peak, group.held_bytes())
        time.sleep(_PERIOD_S)
    line = child.stdout.readline()
    return (json.loads(line) if line else None), peak - idle


def _tell(stdin: IO[str], line: str) -> None:
    try:
        stdin.write(line + "\n")
        stdin.flush()
    except BrokenPipeError:
        return  # it has ended: what it said is read elsewhere


def _trial(cell: Cell, requests: int) -> dict[str, object]:
    way = cell.way
    return {
        "store": str(cell.subject.store), "bits": way.bits, "sequence": cell.subject.sequence,
        "schedule": way.schedule, "cap_bytes": way.cap_bytes, "agents": way.agents, "requests": requests,
    }  # fmt: skip


def _measured(cell: Cell, requests: int, result: dict[str, Any], peak_bytes: int, kills: int) -> Measured:
    times, way = result["times"], cell.way
    return Measured(
        key=cell.key, subject=cell.subject.name, sequence=cell.subject.sequence, flash=cell.flash.name,
        flash_bytes_per_s=cell.flash.bytes_per_s, way=way.name, schedule=way.schedule, bits=way.bits,
        cap_bytes=way.cap_bytes, agents=result["agents"], layers_in_flight=result["layers_in_flight"],
        layers=result["layers"], resident_layers=result["resident_layers"],
        preloaded_layers=result["preloaded_layers"],
        total_ms=times["total_ms"], fastest_ms=min(result["all_ms"]), read_ms=times["read_ms"],
        prepare_ms=times["prepare_ms"], execute_ms=times["execute_ms"], wait_ms=times["wait_ms"], requests=requests,
        peak_bytes=peak_bytes, accounted_bytes=result["accounted_bytes"], predicted_bytes=result["predicted_bytes"],
        predicted_ms=result["predicted_ms"], read_bytes=result["read_bytes"], kills=kills,
    )  # fmt: skip
