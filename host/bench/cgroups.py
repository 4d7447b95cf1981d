"""Control groups that hold processes' reads of one disk to a rate, and let them have the processor before others.

Version 1 keeps a hierarchy per controller, version 2 one for all; both need root. Whoever may not make groups gets
no limit from the kernel, and is told so.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_MOST_SHARES, _MOST_WEIGHT = "262144", "10000"
_REMOVE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit."""

    read_bytes_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Control groups of one set of limits; what is in force says which of them the kernel took."""

    folders: tuple[Path, ...]
    in_force: Limits

    def add(self, pid: int) -> None:
        """Put a process into the groups; its threads follow, and so do its later children."""
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))


@contextmanager
def limited(limits: Limits, disk: str | None, root: Path = ROOT) -> Iterator[Group]:
    """Groups with these limits for as long as the block lasts; processes still in them go back to the top.

    disk: MAJOR:MINOR of the whole disk, None if unknown.
    """
    with ExitStack() as stack:
        maker = _Maker(root, stack)
        read = limits.read_bytes_per_s
        if read is not None and not (disk and maker.limit_reads(disk, read)):
            read = None
        maker.prefer()
        yield Group(tuple(dict.fromkeys(maker.folders)), Limits(read))


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes groups below a root; the stack removes them."""

    root: Path
    stack: ExitStack
    folders: list[Path] = field(default_factory=list)

    def limit_reads(self, disk: str, bytes_per_s: int) -> bool:
        """Whether the kernel took it."""
        version1 = {"blkio.throttle.read_bps_device": f"{disk} {bytes_per_s}"}
        return self._version1("blkio", version1) or self._version2("io", {"io.max": f"{disk} rbps={bytes_per_s}"})

    def prefer(self) -> None:
        """Let the group have the processor before others, where that can be: they should not be what is measured."""
        if not self._version1("cpu", {"cpu.shares": _MOST_SHARES}):
            self._version2("cpu", {"cpu.weight": _MOST_WEIGHT})

    def _version1(self, controller: str, values: dict[str, str]) -> bool:
        return self._make(self.root / controller, values)

    def _version2(self, controller: str, values: dict[str, str]) -> bool:
        with suppress(OSError):  # then writing the value fails, too
            (self.root / "cgroup.subtree_control").write_text(f"+{controller}")
        return self._make(self.root, values)

    def _make(self, top: Path, values: dict[str, str]) -> bool:
        folder = top / f"sti-bench-{os.getpid()}"
        try:
            if not (top / "cgroup.procs").exists():
                return False
            folder.mkdir(exist_ok=True)
            self.stack.callback(_remove, folder)
            for name, value in values.items():
                (folder / name).write_text(value)
        except OSError:
            return False
        self.folders.append(folder)
        return True


def _remove(folder: Path) -> None:
    """Processes leave first; the kernel takes a moment to notice those that have ended."""
    end = time.monotonic() + _REMOVE_SECONDS
    while folder.exists() and time.monotonic() < end:
        with suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with suppress(OSError):  # it ended meanwhile
                    (folder.parent / "cgroup.procs").write_text(pid)
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.02)
