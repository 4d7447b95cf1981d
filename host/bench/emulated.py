"""A phone, emulated on this machine: an agent in a process of its own, with slower flash and a slower processor.

The kernel's throttle delivers in slices of a tenth of a second, in which small reads pass unhindered; so the agent
paces its own reads at the same rate, and the kernel sees to it that nothing else goes past that. For processors the
kernel's quotas are too coarse as well (device_agent/pace.py), so the agent takes a multiple of its time for what it
computes.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_agent.costs import DeviceCosts
from device_agent.costs_file import read_costs
from host.bench.cgroups import Group, Limits, limited
from host.bench.settings import Setting
from host.client import AgentClient
from host.device import STORES
from host.disk import disk_of
from host.local_device import LocalDevice
from shard_store.errors import DeviceError

MIB = 1 << 20
_STORE = "bench"


@dataclass(frozen=True, slots=True)
class Session:
    """An agent that can be asked, and what slows it down."""

    client: AgentClient
    limits: Limits  # that the kernel enforces
    idle_bytes: int  # the process before its first request


class EmulatedPhone:
    """Runs agents on one store of this machine, in a folder of its own."""

    def __init__(self, store_path: Path, folder: Path) -> None:
        self._store_path = store_path.resolve()
        self._device = LocalDevice(folder)
        link = self._device.path(f"{STORES}/{_STORE}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self._store_path)
        self._store = link

    def calibrate(self, setting: Setting, costs_path: Path, memory_bytes: int | None = None) -> DeviceCosts:
        """This setting's costs, measured if there is no such file yet. Raises DeviceError with the agent's reason."""
        if not costs_path.exists():
            costs_path.parent.mkdir(parents=True, exist_ok=True)
            with self._limits(setting) as group:
                self._run_calibration(group, costs_path, setting, memory_bytes)
        return read_costs(costs_path)

    def _run_calibration(self, group: Group, costs_path: Path, setting: Setting, memory_bytes: int | None) -> None:
        options = [*cold_options(setting), "--costs", str(costs_path)]
        if memory_bytes:
            options += ["--memory-mb", str(memory_bytes / MIB)]
        command = [sys.executable, "-m", "device_agent.cli", "calibrate", "--store", str(self._store), *options]
        with subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            group.add(process.pid)  # long before its imports are done
            _, printed = process.communicate()
        if process.returncode:
            lines = printed.strip().splitlines() or [f"exit status {process.returncode}"]
            raise DeviceError(f"this device cannot be measured: {lines[-1].removeprefix('error: ')}")

    @contextmanager
    def cold(self, setting: Setting, costs_path: Path, memory_bytes: int) -> Iterator[Session]:
        """An agent whose every read comes from flash of the setting's speed."""
        options = [*cold_options(setting), "--costs", str(costs_path)]
        with self._limits(setting) as group, self._agent(group, options, memory_bytes) as session:
            yield session

    @contextmanager
    def warm(self, cpu_percent: float, memory_bytes: int, threads: int = 1) -> Iterator[Session]:
        """An agent whose store is in the page cache, at the processor's speed of a setting."""
        options = ["--threads", str(threads), *slow_options(cpu_percent)]
        with limited(Limits(), None) as group, self._agent(group, options, memory_bytes) as session:
            yield session

    @contextmanager
    def _agent(self, group: Group, options: Sequence[str], memory_bytes: int) -> Iterator[Session]:
        memory = ["--memory-mb", f"{memory_bytes / MIB:.3f}", "--log-level", "warning"]
        url = self._device.start_agent(_STORE, [*memory, *options])
        try:
            agent = self._device.agent()
            assert agent
            group.add(agent.pid)
            with AgentClient(url) as client:
                yield Session(client, group.in_force, client.health().process_resident_bytes)
        finally:
            self._device.stop_agent()

    @contextmanager
    def _limits(self, setting: Setting) -> Iterator[Group]:
        with limited(Limits(round(setting.flash_mb_s * 1e6)), disk_of(self._store_path)) as group:
            yield group


def cold_options(setting: Setting) -> list[str]:
    """How the agent reads."""
    return ["--direct", "--throttle-mb-s", f"{setting.flash_mb_s:g}", *slow_options(setting.cpu_percent)]


def slow_options(cpu_percent: float) -> list[str]:
    """How fast it computes."""
    return ["--slowdown", f"{max(1.0, 100 / cpu_percent):g}"]
