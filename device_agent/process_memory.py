"""What the kernel says of memory: this process's and the device's."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What the kernel says of this process, in bytes."""

    resident_bytes: int
    peak_resident_bytes: int
    anonymous_bytes: int  # with no file behind it, private or shared: what the system cannot drop


def process_memory(status: Path = Path("/proc/self/status")) -> ProcessMemory:
    """Read VmRSS, VmHWM and RssAnon + RssShmem; zeros where there is no /proc (macOS).

    Where a layer's packed weights are written in place, VmRSS and VmHWM count them twice: they are mapped twice.
    """
    try:
        lines = status.read_text("ascii").splitlines()
    except OSError:
        return ProcessMemory(0, 0, 0)
    fields = (line.partition(":") for line in lines)
    kib = {name: int(rest.split()[0]) for name, _, rest in fields if rest.endswith("kB")}
    resident, peak, private, shared = (kib.get(name, 0) * 1024 for name in ("VmRSS", "VmHWM", "RssAnon", "RssShmem"))
    return ProcessMemory(resident, peak, private + shared)


def anonymous_share(rollup: Path = Path("/proc/self/smaps_rollup")) -> int:
    """Bytes with no file behind them, each page counted once however often it is mapped (Pss_Anon + Pss_Shmem).

    Walks all pages, which takes a millisecond or more. Raises OSError where the kernel does not say.
    """
    lines = (line.split() for line in rollup.read_text("ascii").splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words[0] in {"Pss_Anon:", "Pss_Shmem:"})


def restart_peak(clear_refs: Path = Path("/proc/self/clear_refs")) -> None:
    """Set the kernel's high-water mark to the present, where it lets us."""
    with suppress(OSError):
        file = os.open(clear_refs, os.O_WRONLY)
        try:
            os.write(file, b"5")
        finally:
            os.close(file)


def default_budget_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """A quarter of the memory that is available now; 1 GiB where the system does not say."""
    try:
        lines = meminfo.read_text("ascii").splitlines()
    except OSError:
        return 1 << 30
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return available[0] // 4 if available else 1 << 30
