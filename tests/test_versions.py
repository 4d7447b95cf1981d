"""What a device holds, and what of it can go."""

from pathlib import Path

import pytest

from host.local_files import LocalFiles
from host.versions import collect_garbage, old_versions, remove_store, store_names, stored_versions
from shard_store.errors import DeviceError

A, B = "a" * 12, "b" * 12


@pytest.fixture
def device(tmp_path: Path) -> LocalFiles:
    """A store with an older version and an unfinished file, and another that never was finished."""
    files = LocalFiles(tmp_path)
    for folder, names in {
        f"x-{A}": ("manifest.json", "data"),
        f"x-{B}": ("manifest.json", "data", "other.part"),
        f"x-y-{A}": ("data",),
        "stranger": ("data",),
    }.items():
        for name in names:
            files.prepare(f"versions/{folder}")
            files.path(f"versions/{folder}/{name}").write_bytes(b"12345")
    files.link("stores/x", f"versions/x-{B}")
    return files


def test_versions_are_told_apart(device: LocalFiles) -> None:
    assert store_names(device) == ["x"]
    found = [
        (stored.name, stored.version, stored.state, stored.files, stored.nbytes) for stored in stored_versions(device)
    ]
    assert found == [
        ("x", A, "replaced", 2, 10),
        ("x", B, "current", 3, 15),
        ("x-y", A, "unfinished", 1, 5),
    ]
    assert old_versions(device.folders("versions"), "x", B) == [A]


def test_only_what_nobody_can_use_is_garbage(device: LocalFiles) -> None:
    freed = collect_garbage(device)
    assert set(freed.removed) == {f"versions/x-{A}", f"versions/x-{B}/other.part", f"versions/x-y-{A}"}
    assert freed.freed_bytes == 20
    assert list(device.folders("versions")) == ["stranger", f"x-{B}"]
    assert collect_garbage(device).removed == ()


def test_a_store_goes_with_all_its_versions(device: LocalFiles) -> None:
    freed = remove_store(device, "x")
    assert freed.freed_bytes == 25
    assert store_names(device) == []
    assert list(device.folders("versions")) == ["stranger", f"x-y-{A}"]
    remove_store(device, "x-y")
    with pytest.raises(DeviceError, match=r"^the device has no store 'x'; it has none$"):
        remove_store(device, "x")
