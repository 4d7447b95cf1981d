"""What kind of file system a folder of the device is on."""

from shard_store.errors import DeviceError

# Android's shared storage: a daemon between us and the flash, slow, and direct IO is what it makes of it.
_EMULATED = {"fuse", "fuseblk", "sdcardfs", "esdfs"}


def check_file_system(text: str) -> None:
    """text: the folder's real path, then /proc/mounts. Raises DeviceError for one that stores must not be on."""
    folder, *mounts = text.splitlines()
    kind = file_system_of(folder, mounts)
    if kind in _EMULATED:
        raise DeviceError(
            f"{folder} is on a {kind} file system (as /sdcard is), which is slow and cannot be trusted with direct IO; "
            "choose a --root below /data/local/tmp"
        )


def file_system_of(folder: str, mounts: list[str]) -> str:
    """The type of the file system, by the lines of /proc/mounts."""
    return mount_of(folder, mounts)[1]


def mount_of(folder: str, mounts: list[str]) -> tuple[str, str]:
    """Device and type of the file system: of the longest mount point, the last mounted."""
    best, device, kind = "", "unknown", "unknown"
    for line in mounts:
        fields = line.split(" ")
        point = fields[1].replace("\\040", " ") if len(fields) > 2 else ""
        if point and (folder + "/").startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, device, kind = point, fields[0], fields[2]
    return device, kind
