"""Pushes to a real adbd, over a network of MTU 1500, and whatever can come in between."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from host.adb.connection import Via, connect
from host.adb.files import AdbFiles
from host.adb.line import AdbLine
from host.push import push
from shard_store.errors import DeviceError
from shard_store.reader import Store
from tests.big_store import write_big_store
from tests.cli_runs import Sti
from tests.phone import Phone

STALL_S = 1.5


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions of a store, each with a file that is worth resuming."""
    folder = tmp_path_factory.mktemp("stores")
    return write_big_store(folder / "0", seed=0), write_big_store(folder / "1", seed=1)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))


@pytest.fixture
def device(phone: Phone) -> Iterator[AdbFiles]:
    line = AdbLine(phone.spec)
    yield AdbFiles(line)
    line.close()


@contextmanager
def impatient(phone: Phone) -> Iterator[AdbFiles]:
    """The same, for a push whose cable is pulled."""
    line = AdbLine(phone.spec, Via.DIRECT, lambda spec, via: connect(spec, via, STALL_S))
    try:
        yield AdbFiles(line)
    finally:
        line.close()


def quiet(stage: str, done: int, total: int) -> None:
    assert stage
    assert 0 <= done <= total or total == 0


def manifest_on(phone: Phone) -> bytes:
    """The manifest of the store that the phone has, which is complete and intact."""
    path = phone.storage / "sti/stores/big"
    with Store.open(path) as store:
        store.verify()
    return (path / "manifest.json").read_bytes()


def nbytes(store: Path) -> int:
    return sum(path.stat().st_size for path in store.iterdir())


def test_a_push_arrives_and_a_second_one_sends_nothing(
    device: AdbFiles, phone: Phone, versions: tuple[Path, Path]
) -> None:
    first = push(versions[0], device, quiet)
    assert first.sent_bytes == nbytes(versions[0])
    assert manifest_on(phone) == (versions[0] / "manifest.json").read_bytes()
    second = push(versions[0], device, quiet)
    assert (second.sent, second.skipped_bytes) == ((), first.sent_bytes)


def test_a_flipped_byte_is_repaired_by_the_next_push(
    device: AdbFiles, phone: Phone, versions: tuple[Path, Path]
) -> None:
    push(versions[0], device, quiet)
    with (phone.storage / "sti/stores/big/shards-8.bin").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    assert push(versions[0], device, quiet).sent == ("shards-8.bin",)
    assert manifest_on(phone) == (versions[0] / "manifest.json").read_bytes()


class Interruption:
    """Breaks the connection, once, when so many bytes of a push have been sent."""

    def __init__(self, after_bytes: int, strike: Callable[[], None]) -> None:
        self._after_bytes = after_bytes
        self._strike: Callable[[], None] | None = strike
        self.sent = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == "send":
            self.sent = done
            if done >= self._after_bytes and self._strike:
                strike, self._strike = self._strike, None
                strike()


def give_up(_: float) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("point", range(10))
def test_whenever_the_connection_breaks_the_store_is_whole_and_the_next_push_goes_on(
    device: AdbFiles, phone: Phone, versions: tuple[Path, Path], point: int
) -> None:
    push(versions[0], device, quiet)
    total = nbytes(versions[1])
    strike, repair = (phone.kill, phone.restart) if point % 2 else (phone.network.unplug, phone.network.plug)
    interruption = Interruption(total * point // 10, strike)
    try:
        with pytest.raises(KeyboardInterrupt), impatient(phone) as hurried:
            push(versions[1], hurried, interruption, sleep=give_up)
    finally:
        repair()
    old, new = ((version / "manifest.json").read_bytes() for version in versions)
    assert manifest_on(phone) in {old, new}
    report = push(versions[1], device, quiet)
    assert manifest_on(phone) == new
    tail = max(path.stat().st_size for path in versions[1].iterdir())
    assert report.sent_bytes <= total - interruption.sent + tail
    assert len(device.folders("versions")) == 1


def test_a_push_survives_a_restart_of_adbd(device: AdbFiles, phone: Phone, versions: tuple[Path, Path]) -> None:
    waits: list[float] = []

    def restart(wait_s: float) -> None:
        waits.append(wait_s)
        phone.restart()

    report = push(versions[0], device, Interruption(nbytes(versions[0]) // 2, phone.kill), sleep=restart)
    assert (report.tries, waits) == (2, [1])
    assert manifest_on(phone) == (versions[0] / "manifest.json").read_bytes()


def test_a_device_that_does_not_come_back_is_told(device: AdbFiles, phone: Phone, versions: tuple[Path, Path]) -> None:
    try:
        with pytest.raises(DeviceError, match=r"^no device at .*; gave up after 6 tries, push again to go on"):
            push(versions[0], device, Interruption(1, phone.kill), sleep=lambda _: None)
    finally:
        phone.restart()


def test_a_full_device_keeps_what_it_has(phone: Phone, versions: tuple[Path, Path]) -> None:
    line = AdbLine(phone.spec)
    device = AdbFiles(line, "/data/small/sti")
    with pytest.raises(DeviceError, match=r"^the device has \d\.\d MB left, the store needs .* remove something there"):
        push(versions[0], device, quiet)
    assert device.folders("stores") == []
    device.remove("versions")
    line.close()


def test_two_devices_at_once_one_of_which_is_not_there(sti: Sti, phone: Phone, versions: tuple[Path, Path]) -> None:
    nobody = f"adb:{phone.network.address}:9"
    done = sti("push", versions[0], "--device", phone.spec, "--device", nobody, "--device", "local", "--json")
    assert done.code == 1
    good, bad, local = done.json["devices"]
    assert (good["device"], good["error"], good["result"]["tries"]) == (str(phone.spec), None, 1)
    assert (bad["device"], bad["result"]) == (nobody, None)
    assert bad["error"].startswith(f"no device at {phone.network.address}:9")
    assert local["result"]["sent_bytes"] == nbytes(versions[0])


def test_stores_are_listed_cleared_up_and_removed(
    sti: Sti, device: AdbFiles, phone: Phone, versions: tuple[Path, Path]
) -> None:
    push(versions[0], device, quiet)
    half = nbytes(versions[1]) // 2
    with pytest.raises(KeyboardInterrupt):
        push(versions[1], device, Interruption(half, device.line.close), sleep=give_up)
    here = ("--device", phone.spec)
    stores = sti("push", "--list", *here, "--json").json["stores"]
    assert sorted((store["name"], store["current"], store["complete"]) for store in stores) == [
        ("big", False, False),
        ("big", True, True),
    ]
    assert "unfinished" in sti("push", "--list", *here).out
    freed = sti("push", "--gc", *here, "--json").json
    assert len(freed["removed"]) == 1
    assert freed["freed_bytes"] > 0
    assert sti("push", "--remove", "none", *here).err.strip() == "error: the device has no store 'none'; it has big"
    assert sti("push", "--remove", "big", *here).code == 0
    assert sti("push", "--list", *here, "--json").json == {"stores": []}
    assert list((phone.storage / "sti/versions").iterdir()) == []
