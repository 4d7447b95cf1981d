"""The local device's files."""

import hashlib
from pathlib import Path

import pytest

from host.device import Transfer
from host.local_files import LocalFiles, default_root
from shard_store.errors import DeviceError


@pytest.fixture
def device(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "device")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 9000)
    return path


def test_a_file_arrives_as_it_was(device: LocalFiles, source: Path) -> None:
    steps: list[int] = []
    device.put([Transfer(source, "a/b/file")], steps.append)
    assert steps == [1 << 20, 2 << 20, source.stat().st_size]
    assert device.files("a/b") == {"file": source.stat().st_size}
    assert device.sha256(["a/b/file"]) == [hashlib.sha256(source.read_bytes()).hexdigest()]


def test_folders_and_files_are_told_apart(device: LocalFiles, source: Path) -> None:
    device.put([Transfer(source, "a/b/file")], lambda _: None)
    assert (device.files("a"), device.folders("a")) == ({}, ["b"])
    assert (device.files("none"), device.folders("none")) == ({}, [])


def test_renaming_replaces_a_file_and_removing_takes_what_is_there(device: LocalFiles, source: Path) -> None:
    device.put([Transfer(source, "a/new")], lambda _: None)
    device.put([Transfer(source, "a/old")], lambda _: None)
    device.rename([("a/new", "a/old")])
    assert list(device.files("a")) == ["old"]
    device.remove("a/none")
    device.remove("a/old")
    assert device.files("a") == {}
    device.put([Transfer(source, "a/b/file")], lambda _: None)
    device.remove("a/b")
    assert device.folders("a") == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", ""])
def test_no_path_leads_out(device: LocalFiles, source: Path, path: str) -> None:
    for action in (device.files, device.remove, device.prepare):
        with pytest.raises(DeviceError, match="is not a path inside"):
            action(path)
    with pytest.raises(DeviceError, match="is not a path inside"):
        device.put([Transfer(source, path)], lambda _: None)


def test_what_the_system_refuses_is_one_line(device: LocalFiles, source: Path) -> None:
    device.root.write_text("a file where the folder should be")
    for action in (
        device.free_bytes,
        lambda: device.put([Transfer(source, "a/b")], lambda _: None),
        lambda: device.rename([("a", "b")]),
        lambda: device.sha256(["a"]),
    ):
        with pytest.raises(DeviceError, match=r"^cannot [^\n]+$"):
            action()


def test_free_space_is_the_file_systems(device: LocalFiles) -> None:
    assert device.free_bytes() > 0


def test_the_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("STI_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_root() == Path("/home/someone/.local/share/sti")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == Path("/data/sti")
    monkeypatch.setenv("STI_HOME", "/sti")
    assert default_root() == Path("/sti")


def test_a_copy_goes_on_where_it_broke_off(device: LocalFiles, source: Path) -> None:
    device.put([Transfer(source, "file")], lambda _: None)
    with device.path("file").open("r+b") as file:
        file.truncate(1000)
    steps: list[int] = []
    device.put([Transfer(source, "file", 1000)], steps.append)
    assert steps[-1] == source.stat().st_size - 1000
    assert device.path("file").read_bytes() == source.read_bytes()


def test_a_link_leads_to_one_folder_after_the_other(device: LocalFiles, source: Path) -> None:
    for name in ("1", "2"):
        device.put([Transfer(source, f"versions/{name}/file")], lambda _: None)
        device.link("stores/x", f"versions/{name}")
        assert device.target("stores/x") == f"versions/{name}"
    assert device.folders("stores") == ["x"]
    assert list(device.files("stores/x")) == ["file"]
    assert device.target("versions/1") is None
    device.remove("stores/x")
    assert device.folders("stores") == []
    assert device.folders("versions") == ["1", "2"]
