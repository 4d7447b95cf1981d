"""Files of a device, by a real adbd."""

import hashlib
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from host.adb.connection import connect
from host.adb.files import AdbFiles
from host.adb.line import AdbLine
from host.device import Transfer
from shard_store.errors import DeviceError
from tests.phone import Phone

STRANGE = [
    "two words",
    "it's",
    'a "quote"',
    "$HOME `id` \\n",
    "-rf",
    "größe 模型 🙂",
    "*?[x]",
    "a;b|c&d",
    ".hidden",
    "%s",
]


@pytest.fixture(scope="module", params=["debian", "android"])
def tools(request: pytest.FixtureRequest, running_phone: Phone) -> Iterator[str]:
    """Whose shell and tools the phone has."""
    android = request.param == "android"
    if android:
        running_phone.kill()
        running_phone.restart(android=True)
    yield request.param
    if android:
        running_phone.kill()
        running_phone.restart()


@pytest.fixture
def line(tools: str, phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AdbLine]:
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))
    opened = AdbLine(phone.spec)
    yield opened
    opened.close()


@pytest.fixture
def device(line: AdbLine) -> AdbFiles:
    return AdbFiles(line)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(3_000_000))
    return path


def ignore(_: int) -> None:
    pass


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_tools_are_those_that_are_meant(line: AdbLine, tools: str) -> None:
    program = line.run("readlink -f $(command -v mv)").text
    assert program.endswith("/toybox\n") == (tools == "android")


def test_small_and_large_files_arrive_as_they_were(device: AdbFiles, source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    empty = tmp_path / "empty"
    empty.touch()
    steps: list[int] = []
    device.prepare("a")
    paths = [small, source, empty, small, small]
    device.put([Transfer(path, f"a/{number}") for number, path in enumerate(paths)], steps.append)
    assert steps == sorted(steps)
    assert steps[-1] == sum(path.stat().st_size for path in paths)
    assert device.files("a") == {str(number): path.stat().st_size for number, path in enumerate(paths)}
    assert device.sha256([f"a/{number}" for number in range(5)]) == [sha256(path) for path in paths]


def test_strange_names_are_only_names(device: AdbFiles, source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"small")
    device.prepare("a")
    device.put([Transfer(small, f"a/{name}") for name in STRANGE], ignore)
    assert device.files("a") == dict.fromkeys(STRANGE, 5)
    assert set(device.sha256([f"a/{name}" for name in STRANGE])) == {sha256(small)}
    device.put([Transfer(source, f"a/{name}") for name in STRANGE], ignore)
    device.rename([(f"a/{name}", f"a/{name}.new") for name in STRANGE])
    assert device.files("a") == {f"{name}.new": 3_000_000 for name in STRANGE}
    for name in STRANGE:
        device.remove(f"a/{name}.new")
    assert device.files("a") == {}


def test_a_large_file_goes_on_where_it_broke_off(device: AdbFiles, source: Path, phone: Phone) -> None:
    device.prepare("a")
    device.put([Transfer(source, "a/file")], ignore)
    os.truncate(phone.storage / "sti/a/file", 1_000_000)
    steps: list[int] = []
    device.put([Transfer(source, "a/file", 1_000_000)], steps.append)
    assert steps[-1] == 2_000_000
    assert device.sha256(["a/file"]) == [sha256(source)]
    with pytest.raises(DeviceError, match=r"cannot write a/file: changed$"):
        device.put([Transfer(source, "a/file", 1_000_000)], ignore)


def test_a_link_leads_to_one_folder_after_the_other(device: AdbFiles, source: Path, phone: Phone) -> None:
    for name in ("1", "2"):
        device.prepare(f"versions/{name}")
        device.put([Transfer(source, f"versions/{name}/file")], ignore)
        device.link("stores/x", f"versions/{name}")
        assert device.target("stores/x") == f"versions/{name}"
        assert (phone.storage / "sti/stores/x").readlink() == Path(f"../versions/{name}")
    assert device.folders("stores") == ["x"]
    assert list(device.files("stores/x")) == ["file"]
    assert device.target("versions/1") is None
    device.remove("stores/x")
    assert device.folders("stores") == []
    assert device.folders("versions") == ["1", "2"]
    device.flush()


def test_what_is_not_there_is_empty(device: AdbFiles) -> None:
    assert device.files("none") == {}
    assert device.folders("none") == []
    assert device.target("none") is None
    assert device.sha256([]) == []
    device.remove("none")
    assert device.free_bytes() > 0


def test_a_writer_that_was_left_behind_is_stopped(device: AdbFiles, line: AdbLine, phone: Phone) -> None:
    device.prepare("a")
    writer = line.connection().start("cat >> /data/local/tmp/sti/a/file.part")
    writer.write(b"one")
    while not (phone.storage / "sti/a/file.part").exists():
        pass
    device.prepare("a")
    assert writer.wait(10).exit_code == 128 + 9


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "a\nb"])
def test_no_path_leads_out(device: AdbFiles, path: str) -> None:
    with pytest.raises(DeviceError, match="is not a path inside"):
        device.remove(path)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (
            "/data/readonly/sti",
            r"^adb:.* cannot use /data/readonly/sti: .*Read-only file system; choose a --root below",
        ),
        ("/data/mine", r"^adb:.* cannot use /data/mine: .*Permission denied; choose a --root below /data/local/tmp"),
        ("/proc/x", r"^adb:.* cannot use /proc/x: "),
    ],
)
def test_folders_that_cannot_be_written_are_told(line: AdbLine, folder: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        AdbFiles(line, folder).prepare("a")


@pytest.mark.parametrize("folder", ["", "/", "relative", "//"])
def test_folders_that_cannot_be_are_refused(line: AdbLine, folder: str) -> None:
    with pytest.raises(DeviceError, match="cannot be the folder of a device"):
        AdbFiles(line, folder)


def test_a_full_device_is_told(line: AdbLine, source: Path) -> None:
    device = AdbFiles(line, "/data/small/sti")
    device.prepare("a")
    assert device.free_bytes() < 5_000_000
    with pytest.raises(DeviceError, match=r"^adb:.* cannot write a/b: .*No space left on device; remove something"):
        device.put([Transfer(source, f"a/{name}") for name in "ab"], ignore)
    device.remove("a/b")
    part = source.with_name("part")
    part.write_bytes(bytes(900_000))
    with pytest.raises(DeviceError, match=r"^adb:.* cannot write: .*No space left on device; remove something"):
        device.put([Transfer(part, f"a/{number}") for number in range(4)], ignore)
    device.remove("a")


def test_a_sync_session_that_breaks_late_takes_nothing_away(device: AdbFiles, line: AdbLine, phone: Phone) -> None:
    """Adbd removes what a broken session was writing when it notices, which may be after the next push."""
    device.prepare("a")
    source = phone.folder / "source"
    source.write_bytes(b"whole")
    stuck = connect(phone.spec)
    session = stuck.open("sync:")
    path = b"/data/local/tmp/sti/a/.incoming-1/file,33188"
    session.write(struct.pack("<4sI", b"SEND", len(path)) + path + struct.pack("<4sI", b"DATA", 100) + b"half")
    while not list(phone.storage.glob("sti/a/.incoming-1/file")):
        pass
    device.prepare("a")
    device.put([Transfer(source, "a/file")], ignore)
    stuck.close()
    time.sleep(0.2)
    assert device.files("a") == {"file": 5}
    assert device.folders("a") == []
