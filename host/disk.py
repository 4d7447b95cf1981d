"""Which disk a file is on, as the kernel's limits name it."""

import os
from pathlib import Path


def disk_of(path: Path, devices: Path = Path("/sys/dev/block")) -> str | None:
    """MAJOR:MINOR of the whole disk that holds a file, for limits are not of partitions; None if it is on no disk."""
    number = path.stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    entry = devices / name
    if not entry.exists():
        return None
    if (entry / "partition").exists():
        return (entry.resolve().parent / "dev").read_text("ascii").strip()
    return name
