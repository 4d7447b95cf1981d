"""A control group for one process: the kernel caps its memory, slows down its flash, and says what it took."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from host.disk import disk_of
from shard_store.errors import DeviceError

CGROUPS = Path("/sys/fs/cgroup")
_PREFIX = "sti-exact-"
_UNLIMITED = "-1"


class Cgroup:
    """Memory and block IO of the processes inside, by cgroup v1 or v2. Needs root; close it when they have ended."""

    def __init__(self, root: Path = CGROUPS) -> None:
        self._unified = (root / "cgroup.controllers").exists()
        parents = [root] if self._unified else [root / "memory", root / "blkio"]
        self._folders: list[Path] = []
        try:
            for parent in parents:
                if not parent.is_dir():
                    raise DeviceError(f"{parent}: no such control group")
                if self._unified:
                    (parent / "cgroup.subtree_control").write_text("+memory +io")
                self._folders.append(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)))
            self.peak_bytes()
        except OSError as error:
            self.close()
            raise DeviceError(f"control groups cannot be used ({error}); run as root on Linux") from error

    @property
    def _memory(self) -> Path:
        return self._folders[0]

    @property
    def _blocks(self) -> Path:
        return self._folders[-1]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """A command line that joins the group before it becomes `arguments`, so that all its memory is counted."""
        joins = " && ".join(f'echo $$ > "{folder}/cgroup.procs"' for folder in self._folders)
        return ["/bin/sh", "-c", f'{joins} && exec "$@"', "sh", *arguments]

    def limit_memory(self, nbytes: int | None) -> None:
        """Cap the memory; None: no cap. Raises DeviceError if the kernel refuses."""
        value = _UNLIMITED if nbytes is None else str(nbytes)
        if self._unified:
            _write(self._memory / "memory.max", "max" if nbytes is None else value)
        else:
            _write(self._memory / "memory.limit_in_bytes", value)

    def throttle_reads(self, path: Path, bytes_per_s: int) -> None:
        """Read no faster from the disk that holds a path. Raises DeviceError if the kernel refuses."""
        disk = disk_of(path)
        if disk is None:
            raise DeviceError(f"{path}: not on a disk, so its reads cannot be slowed down; choose a folder on one")
        if self._unified:
            _write(self._blocks / "io.max", f"{disk} rbps={bytes_per_s}")
        else:
            _write(self._blocks / "blkio.throttle.read_bps_device", f"{disk} {bytes_per_s}")

    def held_bytes(self) -> int:
        """Memory that cannot be taken back: anonymous, shared, and the kernel's for these processes."""
        fields = (line.split() for line in (self._memory / "memory.stat").read_text("ascii").splitlines())
        stat = {name: int(value) for name, value in fields}
        if self._unified:
            return stat["anon"] + stat["shmem"] + stat.get("kernel", 0)
        kernel = int((self._memory / "memory.kmem.usage_in_bytes").read_text("ascii"))
        return stat["total_rss"] + stat["total_shmem"] + kernel

    def peak_bytes(self) -> int:
        """The most memory ever counted, page cache included, since the last restart where the kernel knows one."""
        name = "memory.peak" if self._unified else "memory.max_usage_in_bytes"
        return int((self._memory / name).read_text("ascii"))

    def used_bytes(self) -> int:
        """The memory that is counted now, page cache included."""
        name = "memory.current" if self._unified else "memory.usage_in_bytes"
        return int((self._memory / name).read_text("ascii"))

    def drop_cache(self) -> None:
        """Give back the page cache that is counted here, as far as the kernel can."""
        name, value = ("memory.reclaim", "1G") if self._unified else ("memory.force_empty", "0")
        try:
            (self._memory / name).write_text(value)
        except OSError:  # what is in use stays
            return

    def kills(self) -> int:
        """How many processes were killed for want of memory."""
        name = "memory.events" if self._unified else "memory.oom_control"
        lines = (line.split() for line in (self._memory / name).read_text("ascii").splitlines())
        return next((int(value) for key, value in lines if key == "oom_kill"), 0)

    def close(self) -> None:
        """Remove the group."""
        for folder in self._folders:
            try:
                folder.rmdir()
            except OSError as error:
                raise DeviceError(f"{folder}: cannot be removed ({error.strerror}); has its process ended?") from error
        self._folders = []

    def __enter__(self) -> "Cgroup":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(file: Path, value: str) -> None:
    try:
        file.write_text(value)
    except OSError as error:
        raise DeviceError(f"{file}: the kernel refuses {value!r} ({error.strerror})") from error
