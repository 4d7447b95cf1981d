"""What a device's shell tells, with Python or without."""

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from host.adb.file_system import mount_of
from host.device_shell import Shell
from shard_store.errors import DeviceError

# Lines `name=value`; what the device does not have is left out. Runs in dash, mksh, toybox and busybox.
_SCRIPT = """
d={folder}
while [ ! -d "$d" ]; do d=$(dirname "$d"); done
d=$(cd "$d" && pwd -P) || exit 1
echo "folder=$d"
if [ -w "$d" ]; then echo writable=yes; else echo writable=no; fi
echo "clock=$(date +%s)"
echo "machine=$(uname -m)"
echo "user=$(id -u)"
df -Pk "$d" 2>/dev/null | tail -n 1 | while read -r line; do echo "df=$line"; done
while read -r line; do echo "mount=$line"; done < /proc/self/mounts
while read -r line; do echo "memory=$line"; done < /proc/meminfo
PATH=$PATH:/system/bin
if command -v getprop > /dev/null; then
  echo "android=$(getprop ro.build.version.release)"
  echo "boot_device=$(getprop ro.boot.bootdevice)"
  echo "monitor=$(settings get global settings_enable_monitor_phantom_procs 2>/dev/null)"
  echo "limit=$(device_config get activity_manager max_phantom_processes 2>/dev/null)"
fi
"""


@dataclass(frozen=True, slots=True)
class Android:
    """A release of Android, such as 14, and its limit on child processes (None: the system's own)."""

    release: int
    boot_device: str
    limit: int | None
    limited: bool


@dataclass(frozen=True, slots=True)
class ShellFacts:
    """A device as its shell sees it. None: it does not say."""

    folder: str  # what there is of the folder asked for
    writable: bool
    machine: str
    user: int
    file_system: str
    mounted_from: str
    free_bytes: int | None
    memory_bytes: int | None
    available_bytes: int | None
    ahead_s: float  # of this machine's clock
    android: Android | None


def shell_facts(shell: Shell, folder: str, clock: Callable[[], float] = time.time) -> ShellFacts:
    """Ask a device. Raises DeviceError."""
    before = clock()
    done = shell.run(_SCRIPT.format(folder=shlex.quote(folder)))
    after = clock()
    lines: dict[str, list[str]] = {}
    for line in done.out.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        lines.setdefault(name, []).append(value.strip())
    try:
        return _parse(lines, (before + after) / 2)
    except (KeyError, ValueError, IndexError) as error:
        reason = done.err.decode("utf-8", "replace").strip().rpartition("\n")[2] or f"no usable {error}"
        raise DeviceError(f"the device's shell does not answer as expected: {reason}; is it a Linux device?") from error


def _parse(lines: dict[str, list[str]], now: float) -> ShellFacts:
    folder = lines["folder"][0]
    mounted_from, file_system = mount_of(folder, lines.get("mount", []))
    df = lines["df"][0].split() if "df" in lines else []
    memory = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines["memory"])}
    return ShellFacts(
        folder=folder,
        writable=lines["writable"] == ["yes"],
        machine=lines["machine"][0],
        user=int(lines["user"][0]),
        file_system=file_system,
        mounted_from=mounted_from,
        free_bytes=int(df[3]) * 1024 if len(df) > 3 and df[3].isdecimal() else None,
        memory_bytes=memory.get("MemTotal"),
        available_bytes=memory.get("MemAvailable"),
        ahead_s=int(lines["clock"][0]) - now,
        android=_android(lines) if lines.get("android", [""])[0] else None,
    )


def _android(lines: dict[str, list[str]]) -> Android:
    release = lines["android"][0].partition(".")[0]
    limit = lines.get("limit", [""])[0]
    monitored = lines.get("monitor", [""])[0] != "false"
    return Android(
        release=int(release) if release.isdecimal() else 0,
        boot_device=lines.get("boot_device", [""])[0],
        limit=int(limit) if limit.isdecimal() else None,
        limited=monitored,
    )
