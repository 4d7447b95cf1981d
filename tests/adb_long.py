"""Pushes to the stand-in phone for as long as it takes: 100 broken connections, a file of 3 GB, 5,000 small ones.

    python -m tests.adb_long [--points 100] [--gigabytes 3] [--files 5000]

Needs root and .ci/install-phone, like the tests that use the phone. Prints a line for each part; exits 1 if one fails.
"""

import argparse
import hashlib
import os
import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from host.adb.connection import AdbConnection, Via, connect
from host.adb.files import AdbFiles
from host.adb.line import AdbLine
from host.device_spec import DeviceSpec
from host.landing import land, missing
from host.push import push
from shard_store.errors import ConnectionLost
from shard_store.manifest import StoredFile
from shard_store.reader import Store
from tests.big_store import write_big_store
from tests.files import random_file, stored_file
from tests.phone import Phone, booted_phone, why_not

STALL_S = 1.0
_SWITCH_S = 0.5  # verifying the last files and switching takes about so long
STRANGE = ("two words", "it's", 'a "quote"', "$HOME `id`", "-rf", "größe 模型 🙂", "*?[x]", "a;b|c&d", ".hidden", "%s")
MB = 1e6
_SEGMENT_BYTES = 64 << 20  # what may be under way when the connection breaks


class Broken(Exception):
    """A push that was cut off here is not tried again."""


@dataclass(slots=True)
class Interruption:
    """Breaks the connection, once, when so many bytes of a push have been sent."""

    after_bytes: int
    strike: Callable[[], None]
    sent: int = 0
    struck: bool = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "send":
            self.sent = max(self.sent, done)
            if done >= self.after_bytes and not self.struck:
                self.struck = True
                self.strike()


def main() -> int:
    """Run all parts on one phone."""
    options = _options()
    if reason := why_not():
        print(f"no phone: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sti-long-") as folder, booted_phone() as phone:
        os.environ["STI_HOME"] = f"{folder}/home"
        work = Path(folder)
        break_pushes(phone, work, options.points)
        push_small_files(phone, work / "small", options.files)
        push_large_file(phone, work / "large", int(options.gigabytes * 1e9))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--files", type=int, default=5000)
    return parser.parse_args()


@contextmanager
def _files(phone: Phone) -> Iterator[AdbFiles]:
    line = AdbLine(phone.spec, Via.DIRECT, _impatient)
    try:
        yield AdbFiles(line)
    finally:
        line.close()


def _impatient(spec: DeviceSpec, via: Via) -> AdbConnection:
    return connect(spec, via, STALL_S)


def break_pushes(phone: Phone, work: Path, points: int) -> None:
    """Kill adbd or pull the cable at points spread over a push; look at the device; let the next push go on."""
    versions = [write_big_store(work / str(seed), seed) for seed in range(2)]
    manifests = [(version / "manifest.json").read_bytes() for version in versions]
    totals = [sum(path.stat().st_size for path in version.iterdir()) for version in versions]
    kept_old = worst_bytes = 0
    with _files(phone) as device:
        push(versions[0], device, lambda *_: None)
    for point in range(points):
        new = (point + 1) % 2
        total = totals[new]
        kill, repair = (phone.kill, phone.restart) if point % 4 < 2 else (phone.network.unplug, phone.network.plug)
        sending = points * 9 // 10  # the last tenth strikes while the store is verified and switched to
        timer = threading.Timer(max(0, point - sending) * _SWITCH_S / (points - sending), kill)
        interruption = Interruption(total * min(point, sending) // sending, timer.start if point >= sending else kill)
        with _files(phone) as device:
            try:
                push(versions[new], device, interruption, sleep=_give_up)
            except Broken:
                pass
            finally:
                if timer.ident:
                    timer.join()
                repair()
        assert interruption.struck
        found = _verified_manifest(phone)
        assert found in manifests
        kept_old += found == manifests[1 - new]
        with _files(phone) as device:
            report = push(versions[new], device, lambda *_: None)
        assert _verified_manifest(phone) == manifests[new]
        worst_bytes = max(worst_bytes, report.sent_bytes - (total - interruption.sent))
    tail = max(path.stat().st_size for path in versions[0].iterdir())
    assert worst_bytes <= tail
    print(
        f"{points} broken pushes of {total / MB:.1f} MB: the store was whole each time, the old one {kept_old} times; "
        f"the next push sent at most {worst_bytes / MB:.2f} MB more than was left (largest file {tail / MB:.1f} MB)"
    )


def _give_up(_: float) -> None:
    raise Broken


def _verified_manifest(phone: Phone) -> bytes:
    path = phone.storage / "sti/stores/big"
    with Store.open(path) as store:
        store.verify()
    return (path / "manifest.json").read_bytes()


def push_small_files(phone: Phone, source: Path, count: int) -> None:
    """Land many small files, some of strange names, with the connection cut once."""
    source.mkdir()
    generator = random.Random(0)
    files: dict[str, StoredFile] = {}
    for number in range(count):
        name = f"{STRANGE[number % len(STRANGE)]} {number}" if number % 5 == 0 else f"file-{number}"
        data = generator.randbytes(generator.randrange(8192))
        (source / name).write_bytes(data)
        files[name] = StoredFile(len(data), hashlib.sha256(data).hexdigest())
    started = time.monotonic()
    with _files(phone) as device:
        device.prepare("many")
        cut = Interruption(sum(file.nbytes for file in files.values()) // 2, device.line.close)
        with suppress(ConnectionLost):
            land(device, "many", source, missing(device, "many", source, files), lambda done: cut("send", done, 0))
        left = missing(device, "many", source, files)
        land(device, "many", source, left, lambda _: None)
        seconds = time.monotonic() - started
        assert not missing(device, "many", source, files)
        assert dict(device.files("many")) == {name: file.nbytes for name, file in files.items()}
        device.remove("many")
    print(f"{count} small files: {seconds:.1f} s, cut off once, {len(left)} left for the second try")


def push_large_file(phone: Phone, source: Path, nbytes: int) -> None:
    """Land one large file, cut off at two thirds; memory must not grow with it."""
    source.mkdir()
    random_file(source / "large", nbytes, seed=1)
    files = {"large": stored_file(source / "large")}
    size = files["large"].nbytes
    before = _peak_bytes()
    started = time.monotonic()
    with _files(phone) as device:
        device.prepare("one")
        cut = Interruption(size * 2 // 3, device.line.close)
        with suppress(ConnectionLost):
            land(device, "one", source, missing(device, "one", source, files), lambda done: cut("send", done, 0))
        device.prepare("one")
        (left,) = missing(device, "one", source, files)
        land(device, "one", source, [left], lambda _: None)
        seconds = time.monotonic() - started
        assert not missing(device, "one", source, files)
        device.remove("one")
    grown = _peak_bytes() - before
    assert left.start >= size * 2 // 3 - _SEGMENT_BYTES
    print(
        f"one file of {size / MB:.0f} MB: {seconds:.1f} s, cut off at {size * 2 // 3 / MB:.0f} MB, went on at "
        f"{left.start / MB:.0f} MB; memory grew by {grown / MB:.1f} MB"
    )


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
