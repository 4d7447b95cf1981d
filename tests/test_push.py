"""Pushes, and everything that can cut them off."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from host.device import VERSIONS, Sent, Transfer
from host.local_device import LocalDevice
from host.push import PushReport, push, store_name
from shard_store.errors import ChecksumError, ConnectionLost, DeviceError, FormatError
from shard_store.reader import Store
from shard_store.store_files import MANIFEST_FILE
from tests.stores import write_store


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores of the same model that differ in their weights, not in their tokenizer."""
    folder = tmp_path_factory.mktemp("stores")
    for seed in (0, 1):
        write_store(folder / str(seed), bitwidths=(2,), seed=seed)
    return folder / "0", folder / "1"


class FaultyDevice(LocalDevice):
    """A device whose operation number `fails_at` fails; if `dies`, so do all that follow."""

    def __init__(self, root: Path, fails_at: int = -1, dies: bool = False) -> None:
        super().__init__(root)
        self.operations = 0
        self._fails_at = fails_at
        self._dies = dies

    def _count(self) -> None:
        number = self.operations
        self.operations += 1
        if number == self._fails_at or (self._dies and number > self._fails_at >= 0):
            raise DeviceError("the cable came loose")

    def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
        for transfer in transfers:
            half = transfer.source.read_bytes()[: transfer.source.stat().st_size // 2]
            target = self.path(transfer.path)
            if transfer.start < len(half):
                target.write_bytes(half)  # what a transfer leaves that is cut off
            self._count()
            super().put([transfer], sent)

    def sha256(self, paths: Sequence[str]) -> list[str]:
        self._count()
        return super().sha256(paths)

    def rename(self, moves: Sequence[tuple[str, str]]) -> None:
        for move in moves:
            self._count()
            super().rename([move])

    def link(self, path: str, target: str) -> None:
        self._count()
        super().link(path, target)

    def remove(self, path: str) -> None:
        self._count()
        super().remove(path)


def quiet(stage: str, done: int, total: int) -> None:
    assert stage
    assert 0 <= done <= total or total == 0


def home(device: LocalDevice) -> Path:
    return device.root / "stores" / "small"


def manifest_of(store: Path) -> bytes:
    """The manifest of a store that is complete and intact."""
    with Store.open(store) as opened:
        opened.verify()
    return (store / MANIFEST_FILE).read_bytes()


def test_a_first_push_sends_all_and_the_manifest_last(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    stages: list[str] = []
    report = push(versions[0], device, lambda stage, done, total: stages.append(stage))
    files = sorted(path.name for path in versions[0].iterdir())
    assert sorted(report.sent) == files
    assert report.sent[-1] == MANIFEST_FILE
    assert stages[-1] == "send"
    assert (report.name, report.skipped, report.skipped_bytes) == ("small", (), 0)
    assert report.sent_bytes == sum(path.stat().st_size for path in versions[0].iterdir())
    assert manifest_of(home(device)) == manifest_of(versions[0])
    assert device.folders("stores") == ["small"]


def test_what_is_there_is_verified_and_not_sent_again(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    first = push(versions[0], device, quiet)
    second = push(versions[0], device, quiet)
    assert (second.sent, second.sent_bytes) == ((), 0)
    assert (second.skipped, second.skipped_bytes, second.version) == (first.sent, first.sent_bytes, first.version)


def test_a_file_that_was_damaged_on_the_device_is_sent_again(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    push(versions[0], device, quiet)
    shards = home(device) / "shards-2.bin"
    data = bytearray(shards.read_bytes())
    data[100] ^= 1
    shards.write_bytes(data)
    assert push(versions[0], device, quiet).sent == ("shards-2.bin",)
    assert manifest_of(home(device)) == manifest_of(versions[0])


def test_a_new_version_replaces_the_old(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    push(versions[0], device, quiet)
    push(versions[1], device, quiet)
    assert manifest_of(home(device)) == manifest_of(versions[1])
    assert device.folders("stores") == ["small"]


def operations_of_an_update(versions: tuple[Path, Path], root: Path) -> int:
    push(versions[0], LocalDevice(root), quiet)
    device = FaultyDevice(root)
    push(versions[1], device, quiet)
    return device.operations


@pytest.mark.parametrize("dies", [False, True])
def test_whatever_operation_fails_one_version_is_whole_and_the_next_push_mends_it(
    versions: tuple[Path, Path], tmp_path: Path, dies: bool
) -> None:
    old, new = manifest_of(versions[0]), manifest_of(versions[1])
    operations = operations_of_an_update(versions, tmp_path / "count")
    assert operations > 2 * len(list(versions[1].iterdir()))
    push(versions[0], LocalDevice(tmp_path / "first"), quiet)
    for number in range(operations):
        root = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", root, symlinks=True)
        with pytest.raises(DeviceError, match="cable"):
            push(versions[1], FaultyDevice(root, number, dies), quiet)
        device = LocalDevice(root)
        assert manifest_of(home(device)) in {old, new}
        push(versions[1], device, quiet)
        assert manifest_of(home(device)) == new
        assert device.folders("stores") == ["small"]
        assert len(device.folders(VERSIONS)) == 1


def test_an_interrupted_push_is_resumed(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = FaultyDevice(tmp_path, fails_at=10)
    with pytest.raises(DeviceError):
        push(versions[0], device, quiet)
    resumed = push(versions[0], LocalDevice(tmp_path), quiet)
    assert resumed.sent
    assert resumed.skipped
    assert manifest_of(home(device)) == manifest_of(versions[0])


def test_a_plain_folder_of_that_name_makes_way(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    shutil.copytree(versions[0], home(device))
    push(versions[1], device, quiet)
    assert manifest_of(home(device)) == manifest_of(versions[1])
    assert len(device.folders(VERSIONS)) == 1


class Flaky(LocalDevice):
    """A device whose connection breaks the first few times that something is sent."""

    def __init__(self, root: Path, breaks: int) -> None:
        super().__init__(root)
        self._breaks = breaks

    def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
        super().put(transfers[:1], sent)
        if self._breaks:
            self._breaks -= 1
            raise ConnectionLost("the cable came loose")
        super().put(transfers, sent)


def test_a_lost_connection_is_tried_again_after_growing_waits(versions: tuple[Path, Path], tmp_path: Path) -> None:
    waits: list[float] = []
    report = push(versions[0], Flaky(tmp_path, 3), quiet, sleep=waits.append)
    assert waits == [1, 2, 4]
    assert report.tries == 4
    assert report.sent_bytes > sum(path.stat().st_size for path in versions[0].iterdir())
    assert manifest_of(tmp_path / "stores" / "small") == manifest_of(versions[0])


def test_a_connection_that_is_lost_again_and_again_is_given_up(versions: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"^the cable came loose; gave up after 6 tries, push again to go on"):
        push(versions[0], Flaky(tmp_path, 99), quiet, sleep=lambda _: None)


def test_what_other_unfinished_versions_left_is_removed(versions: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DeviceError):
        push(versions[0], FaultyDevice(tmp_path, fails_at=10), quiet)
    device = LocalDevice(tmp_path)
    push(versions[1], device, quiet)
    assert device.folders("stores") == ["small"]


def test_damage_on_the_way_is_found_and_the_old_version_stays(versions: tuple[Path, Path], tmp_path: Path) -> None:
    class Corrupting(LocalDevice):
        def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
            super().put(transfers, sent)
            for transfer in transfers:
                if "shards-2" in transfer.path:
                    self.path(transfer.path).write_bytes(b"\0" * transfer.source.stat().st_size)

    push(versions[0], LocalDevice(tmp_path), quiet)
    device = Corrupting(tmp_path)
    with pytest.raises(DeviceError, match=r"^shards-2.bin arrived damaged; push again"):
        push(versions[1], device, quiet)
    assert manifest_of(home(device)) == manifest_of(versions[0])


def test_a_full_device_is_told_before_anything_is_sent(versions: tuple[Path, Path], tmp_path: Path) -> None:
    class Full(LocalDevice):
        def free_bytes(self) -> int:
            return 500

    device = Full(tmp_path)
    with pytest.raises(DeviceError, match=r"^the device has 0.0 MB left, the store needs \d+\.\d MB more"):
        push(versions[0], device, quiet)
    assert device.folders("stores") == []


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "a" * 200])
def test_names_that_cannot_be_are_refused(versions: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError, match="cannot name a store"):
        push(versions[0], LocalDevice(tmp_path), quiet, name)


def test_a_store_takes_its_models_name_or_the_one_given(versions: tuple[Path, Path], tmp_path: Path) -> None:
    device = LocalDevice(tmp_path)
    assert push(versions[0], device, quiet, "other.v2").name == "other.v2"
    assert device.folders("stores") == ["other.v2"]
    assert store_name("someone/All MiniLM_v2.1") == "All-MiniLM_v2-1"
    assert store_name("..") == "store"


def damaged(store: Path) -> None:
    data = bytearray((store / "shards-2.bin").read_bytes())
    data[50] ^= 255
    (store / "shards-2.bin").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (damaged, ChecksumError),
        (lambda store: (store / "shards-2.bin").unlink(), FormatError),
        (lambda store: (store / MANIFEST_FILE).unlink(), FormatError),
    ],
)
def test_a_store_that_is_damaged_here_is_not_sent(
    versions: tuple[Path, Path], tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(versions[0], copy)
    spoil(copy)
    device = LocalDevice(tmp_path / "device")
    with pytest.raises(error):
        push(copy, device, quiet)
    assert device.folders("stores") == []


def test_the_report_names_the_version_by_its_manifest(versions: tuple[Path, Path], tmp_path: Path) -> None:
    reports: list[PushReport] = [push(path, LocalDevice(tmp_path), quiet) for path in versions]
    assert len({report.version for report in reports}) == 2
