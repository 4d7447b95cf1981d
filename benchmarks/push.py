"""`sti push` against Debian's `adb push`: the same files, to the same stand-in phone, in one run.

    python -m benchmarks.push [--megabytes 1000] [--rounds 5] [--json]

Needs root and .ci/install-phone. The two take turns, so that a busy machine disturbs both; the medians are compared.
Two rates of ours: the transfer alone, which is what `adb push` does, and all that makes a push: every file hashed
on the device, compared and renamed.
"""

import argparse
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from host.adb.files import AdbFiles
from host.adb.line import AdbLine
from host.device import Transfer
from host.landing import land, missing
from shard_store.manifest import StoredFile
from tests.files import random_file, stored_file
from tests.phone import Phone, booted_phone, why_not

MB = 1e6
_SHARES = (0.5, 0.25, 0.15, 0.09, 0.01)  # of the megabytes, as the files of a store differ
_SMALL_FILES = 40


@dataclass(frozen=True, slots=True)
class PushRates:
    """Megabytes per second, medians, and what they say. grown_mb: our peak memory over that before the first push."""

    files: int
    total_mb: float
    rounds: int
    adb_mb_per_s: float
    transfer_mb_per_s: float
    landed_mb_per_s: float
    transfer_ratio: float
    landed_ratio: float
    grown_mb: float


def main() -> int:
    """Measure, and print one result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    if reason := why_not():
        print(f"no phone: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sti-push-") as folder, booted_phone() as phone:
        os.environ["STI_HOME"] = f"{folder}/home"
        rates = measure(phone, Path(folder) / "files", options.megabytes, options.rounds)
    print(json.dumps(asdict(rates), indent=2) if options.as_json else _line(rates))
    return 0


def measure(phone: Phone, source: Path, megabytes: int, rounds: int) -> PushRates:
    """Make the files, then push them by turns."""
    files = _make_files(source, megabytes)
    total_mb = sum(file.nbytes for file in files.values()) / MB
    line = AdbLine(phone.spec)
    device = AdbFiles(line)
    device.prepare("bench")
    before = _peak_bytes()
    seconds: dict[str, list[float]] = {"adb": [], "transfer": [], "landed": []}
    with _adb_server(phone) as adb_push:
        turns: dict[str, Callable[[], None]] = {
            "adb": lambda: adb_push(source),
            "transfer": lambda: _transfer(device, source, files),
            "landed": lambda: _land(device, source, files),
        }
        for _ in range(rounds):
            for name, turn in turns.items():
                phone.clear()
                device.prepare("bench")
                started = time.monotonic()
                turn()
                seconds[name].append(time.monotonic() - started)
    grown_mb = (_peak_bytes() - before) / MB
    line.close()
    adb, transfer, landed = (total_mb / statistics.median(seconds[name]) for name in ("adb", "transfer", "landed"))
    return PushRates(len(files), total_mb, rounds, adb, transfer, landed, transfer / adb, landed / adb, grown_mb)


def _make_files(source: Path, megabytes: int) -> dict[str, StoredFile]:
    source.mkdir()
    sizes = {f"large-{number}": int(megabytes * MB * share) for number, share in enumerate(_SHARES)}
    sizes |= {f"small-{number}": 20_000 for number in range(_SMALL_FILES)}
    for seed, (name, nbytes) in enumerate(sizes.items()):
        random_file(source / name, nbytes, seed)
    return {name: stored_file(source / name) for name in sizes}


def _transfer(device: AdbFiles, source: Path, files: dict[str, StoredFile]) -> None:
    device.put([Transfer(source / name, f"bench/{name}") for name in files], lambda _: None)


def _land(device: AdbFiles, source: Path, files: dict[str, StoredFile]) -> None:
    land(device, "bench", source, missing(device, "bench", source, files), lambda _: None)


@contextmanager
def _adb_server(phone: Phone) -> Iterator[Callable[[Path], None]]:
    """Gives a function that runs `adb push` on a folder."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    def adb(*arguments: str) -> None:
        done = phone.adb(*arguments, server_port=port)
        if done.returncode:
            raise OSError(f"adb {' '.join(arguments)}: {done.stderr or done.stdout}")

    adb("connect", phone.spec.address)
    try:
        yield lambda source: adb("push", str(source), "/data/local/tmp/adb")
    finally:
        adb("kill-server")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _line(rates: PushRates) -> str:
    return (
        f"{rates.files} files, {rates.total_mb:.0f} MB, median of {rates.rounds}: "
        f"adb push {rates.adb_mb_per_s:.0f} MB/s, "
        f"ours {rates.transfer_mb_per_s:.0f} MB/s ({rates.transfer_ratio:.2f}), "
        f"verified on the device {rates.landed_mb_per_s:.0f} MB/s ({rates.landed_ratio:.2f}); "
        f"memory grew by {rates.grown_mb:.1f} MB"
    )


if __name__ == "__main__":
    sys.exit(main())
