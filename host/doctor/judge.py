"""Facts about a device, judged."""

from collections.abc import Iterator
from dataclasses import dataclass

from host.device_python import DevicePython, ExecutorFound, Flash
from host.doctor.check import Check, Level
from host.doctor.shell_facts import Android, ShellFacts

MB = 1e6
_FUSE = {"fuse", "fuseblk", "sdcardfs", "esdfs", "vfat", "exfat"}
_IN_MEMORY = {"tmpfs", "ramfs"}
_NETWORK = {"9p", "nfs", "nfs4", "cifs", "virtiofs"}
_PHANTOM_RELEASE = 12  # of Android: since then a device kills processes beyond the limit
_MANY_PROCESSES = 1000
_CLOCK_WARNING_S = 5.0
_CLOCK_PROBLEM_S = 300.0
_INSTALL = "`sti agent start --install` installs it, given a network"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a device should have."""

    memory_bytes: int = 256_000_000
    space_bytes: int = 500_000_000
    read_mb_s: float = 50.0


@dataclass(frozen=True, slots=True)
class Judge:
    """Turns facts into findings about one device."""

    where: str
    needs: Needs = Needs()

    def connection(self) -> Check:
        """A shell that has answered."""
        return self._ok("connection", "the shell answers")

    def shell(self, facts: ShellFacts) -> Iterator[Check]:
        """What needs no Python."""
        yield self._ok("system", f"{_android_name(facts.android)}, {facts.machine}, user {facts.user}")
        yield self._folder(facts)
        yield self._storage(facts)
        yield self._space(facts)
        yield self._memory(facts)
        yield self._processes(facts.android)
        yield self._clock(facts.ahead_s)

    def python(self, python: DevicePython | None) -> Iterator[Check]:
        """Python and runtime."""
        if python is None:
            remedy = "install one (docs/devices.md), or name its command with --python"
            yield self._problem("python", "no Python found", remedy)
            return
        facts = python.facts
        name = f"{facts.python}, {facts.executable or python.command}"
        if facts.old:
            yield self._problem("python", name, "the agent needs Python 3.10 or newer; name another with --python")
            return
        yield self._ok("python", name)
        runtime = facts.versions.get("ai-edge-litert")
        if any(name.startswith("ai-edge-litert") for name in facts.missing):
            found = "ai-edge-litert is not installed" if runtime is None else f"ai-edge-litert {runtime}"
            yield self._problem("runtime", found, _INSTALL)
        else:
            yield self._ok("runtime", f"ai-edge-litert {runtime}")
        if facts.missing:
            yield self._problem("packages", f"not met: {', '.join(facts.missing)}", _INSTALL)
        else:
            yield self._ok("packages", "all that the agent needs")

    def executor(self, found: ExecutorFound) -> Iterator[Check]:
        """Which executor int8 layers will have."""
        if not found.installed:
            remedy = "start the agent once: `sti agent start` brings it"
            yield self._warning("executor", "not known: the agent was never started here", remedy)
            return
        if found.name is None:
            yield self._problem("executor", f"none: {found.error}", "see the lines on runtime and packages")
            return
        note = "tried on a store" if found.proven else "expected; push a store to have it tried"
        if found.name == "in-place":
            yield self._ok("executor", f"in-place ({note})")
            return
        remedy = "nothing to mend: layers are packed one by one, which takes more time and memory"
        yield self._warning("executor", f"{found.name} ({note})", remedy)

    def flash(self, flash: Flash) -> Iterator[Check]:
        """Cold reads."""
        if flash.error is not None or flash.read_mb_s is None:
            yield self._problem("read speed", f"not measured: {flash.error}", "see the lines on folder and space")
            return
        speed = f"{flash.read_mb_s:.0f} MB/s, {'direct' if flash.direct else 'buffered'}"
        if flash.read_mb_s < self.needs.read_mb_s:
            yield self._warning("read speed", speed, "plan for it: fewer bits, a larger budget, or faster storage")
        else:
            yield self._ok("read speed", speed)
        if flash.direct:
            yield self._ok("direct IO", "works")
        else:
            remedy = "reads pass through the page cache, which takes memory beside the budget; use another folder"
            yield self._warning("direct IO", "refused by the file system", remedy)

    def _folder(self, facts: ShellFacts) -> Check:
        if facts.writable:
            return self._ok("folder", facts.folder)
        remedy = "choose a folder that this user may write, such as /data/local/tmp/sti"
        return self._problem("folder", f"{facts.folder} may not be written by user {facts.user}", remedy)

    def _storage(self, facts: ShellFacts) -> Check:
        kind = facts.file_system
        known = [kind, facts.mounted_from, facts.android.boot_device if facts.android else None]
        found = ", ".join(part for part in known if part)
        if kind.partition(".")[0] in _FUSE:
            return self._problem("storage", found, "slow, and direct IO may lie there; use /data/local/tmp/sti")
        if kind in _IN_MEMORY:
            return self._warning("storage", found, "a store there takes memory; use a folder on flash")
        if kind in _NETWORK:
            return self._warning("storage", found, "not a local disk; use a folder on flash")
        return self._ok("storage", found)

    def _space(self, facts: ShellFacts) -> Check:
        if facts.free_bytes is None:
            return self._warning("space", "the device does not say", "make sure that the store fits")
        found = f"{facts.free_bytes / MB:.0f} MB free"
        if facts.free_bytes >= self.needs.space_bytes:
            return self._ok("space", found)
        remedy = f"free space, {self.needs.space_bytes / MB:.0f} MB are asked for; or package fewer bitwidths"
        return self._problem("space", found, remedy)

    def _memory(self, facts: ShellFacts) -> Check:
        if facts.available_bytes is None:
            return self._warning("memory", "the device does not say", "give the agent a budget with --memory-mb")
        found = f"{facts.available_bytes / MB:.0f} MB available of {(facts.memory_bytes or 0) / MB:.0f} MB"
        if facts.available_bytes >= self.needs.memory_bytes:
            return self._ok("memory", found)
        remedy = (
            f"close apps, {self.needs.memory_bytes / MB:.0f} MB are asked for; or give the agent less (--memory-mb)"
        )
        return self._problem("memory", found, remedy)

    def _processes(self, android: Android | None) -> Check:
        if android is None or android.release < _PHANTOM_RELEASE:
            return self._ok("process limit", "none")
        if not android.limited or (android.limit or 0) >= _MANY_PROCESSES:
            return self._ok("process limit", "lifted")
        lift = "adb shell settings put global settings_enable_monitor_phantom_procs false"
        remedy = f"Android may kill the agent in Termux; lift the limit: `{lift}`"
        return self._warning("process limit", f"{android.limit or 32} child processes of all apps", remedy)

    def _clock(self, ahead_s: float) -> Check:
        found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
        remedy = "set the device's date and time: certificates and logs depend on them"
        if abs(ahead_s) > _CLOCK_PROBLEM_S:
            return self._problem("clock", found, remedy)
        if abs(ahead_s) > _CLOCK_WARNING_S:
            return self._warning("clock", found, remedy)
        return self._ok("clock", "as this machine's")

    def _ok(self, name: str, found: str) -> Check:
        return Check(self.where, name, Level.OK, found)

    def _warning(self, name: str, found: str, remedy: str) -> Check:
        return Check(self.where, name, Level.WARNING, found, remedy)

    def _problem(self, name: str, found: str, remedy: str) -> Check:
        return Check(self.where, name, Level.PROBLEM, found, remedy)


def _android_name(android: Android | None) -> str:
    return f"Android {android.release}" if android else "Linux"
