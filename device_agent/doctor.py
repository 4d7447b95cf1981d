"""What a device's Python finds out about the device, as one JSON object on standard output.

Sent to the device as a file of its own (`python3 - < doctor.py`), so it needs nothing but the standard library; where
the agent is installed as well, a store tells which executor will run. It says what is; `sti doctor` judges.
"""

import argparse
import json
import mmap
import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path

CHUNK_BYTES = 1 << 20
DEFAULT_CHUNKS = 32
NANOSECONDS = 1e9


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="distributions whose versions are asked for")
    parser.add_argument("--flash", type=Path, metavar="DIR", help="measure reads in this folder")
    parser.add_argument("--chunks", type=int, default=DEFAULT_CHUNKS, help="MiB to measure with (default: %(default)s)")
    parser.add_argument("--stores", type=Path, metavar="DIR", help="try the executor on a store of this folder")
    parser.add_argument("--path", metavar="PATH", help="where the agent's packages are: a folder or a zip file")
    options = parser.parse_args()
    if options.path:
        sys.path.insert(0, options.path)
    facts = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "versions": {name: version_of(name) for name in options.names},
    }
    if options.flash:
        facts["flash"] = measure_flash(options.flash, options.chunks)
    if options.stores:
        facts["executor"] = find_executor(options.stores)
    sys.stdout.write(json.dumps(facts) + "\n")


def version_of(name: str) -> "str | None":
    """Version of an installed distribution; None if there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def measure_flash(folder: Path, chunks: int = DEFAULT_CHUNKS) -> "dict[str, object]":
    """Megabytes per second of cold reads, by 1 MiB, from a file written for it; whether they were direct.

    The file is removed again. An error is told instead of the numbers.
    """
    path = folder / f"doctor-{os.getpid()}.part"
    try:
        _write_random(path, chunks)
        try:
            return _read_cold(path, os.O_DIRECT, chunks)
        except (OSError, AttributeError):  # the file system refuses; the system has no such reads
            return _read_cold(path, 0, chunks)
    except OSError as error:
        return {"error": error.strerror or str(error)}
    finally:
        if path.exists():
            path.unlink()


def _write_random(path: Path, chunks: int) -> None:
    with path.open("wb") as file:
        for _ in range(chunks):
            file.write(os.urandom(CHUNK_BYTES))  # nothing that a file system could compress
        file.flush()
        os.fsync(file.fileno())


def _read_cold(path: Path, flags: int, chunks: int) -> "dict[str, object]":
    descriptor = os.open(path, os.O_RDONLY | flags)
    buffer = mmap.mmap(-1, CHUNK_BYTES)  # begins on a page, as direct reads must
    try:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter_ns()
        done = 0
        while count := os.preadv(descriptor, [buffer], done):
            done += count
        seconds = (time.perf_counter_ns() - start) / NANOSECONDS
    finally:
        os.close(descriptor)
    if done != chunks * CHUNK_BYTES:
        raise OSError(0, f"{done} bytes came back of {chunks * CHUNK_BYTES} that were written")
    return {"read_mb_s": round(done / 1e6 / seconds, 1), "direct": bool(flags)}


def find_executor(stores: Path) -> "dict[str, object]":
    """Name of the executor of int8 layers, proven on the first store there is; else what is expected."""
    try:
        from device_agent.inplace import InPlaceExecutor  # noqa: PLC0415 - may not be installed
        from device_agent.litert import Runtime  # noqa: PLC0415
        from shard_store.reader import Store  # noqa: PLC0415
        from shard_store.template import TemplateKind  # noqa: PLC0415
    except ImportError as error:
        return {"error": str(error), "installed": error.name not in ("device_agent", "shard_store")}
    try:
        with Runtime() as runtime:
            store = next((path.parent for path in sorted(stores.glob("*/manifest.json"))), None)
            if store is None:
                return {"name": "in-place" if hasattr(os, "memfd_create") else "constant", "proven": False}
            executor = InPlaceExecutor(runtime)
            with Store.open(store) as opened:
                key = next((key for key in opened.manifest.templates if key.kind is TemplateKind.INT8), None)
                if key is not None:
                    template = opened.template(key.kind, key.slices, key.sequence)
                    executor.frame(template, opened.manifest.geometry, passing=True).close()
            return {"name": executor.name if key else "constant", "proven": True}
    except Exception as error:  # whatever a runtime does on a device that nobody has seen
        return {"error": str(error) or type(error).__name__}


if __name__ == "__main__":
    main()
