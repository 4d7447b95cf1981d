"""What a device's mounts say of a folder."""

import pytest

from host.adb.file_system import check_file_system, file_system_of
from shard_store.errors import DeviceError

MOUNTS = [
    "/dev/block/dm-5 / ext4 ro,seclabel 0 0",
    "tmpfs /mnt tmpfs rw 0 0",
    "/dev/block/dm-40 /data f2fs rw,lazytime 0 0",
    "/dev/fuse /storage/emulated fuse rw,lazytime 0 0",
    "/dev/fuse /mnt/with\\040space fuse rw 0 0",
    "nonsense",
]


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/data/local/tmp/sti", "f2fs"),
        ("/database", "ext4"),
        ("/storage/emulated/0/sti", "fuse"),
        ("/mnt/with space/x", "fuse"),
        ("/mnt", "tmpfs"),
    ],
)
def test_the_innermost_mount_counts(folder: str, kind: str) -> None:
    assert file_system_of(folder, MOUNTS) == kind


def test_what_is_mounted_last_covers_the_rest() -> None:
    assert file_system_of("/a/b", ["x /a ext4 rw 0 0", "y /a fuse rw 0 0"]) == "fuse"


def test_shared_storage_is_refused() -> None:
    with pytest.raises(DeviceError, match=r"^/storage/emulated/0 is on a fuse file system .* choose a --root below"):
        check_file_system("\n".join(["/storage/emulated/0", *MOUNTS]))
    check_file_system("\n".join(["/data/local/tmp", *MOUNTS]))
