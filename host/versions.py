"""The versions of stores that a device holds: `stores/NAME` leads to `versions/NAME-HASH`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from host.device import STORES, VERSIONS, DeviceFiles
from host.landing import PART
from shard_store.errors import DeviceError
from shard_store.store_files import MANIFEST_FILE

_FOLDER = re.compile(r"(?P<name>.+)-(?P<version>[0-9a-f]{12})")


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version of a store on a device. current: the one that `stores/NAME` leads to."""

    name: str
    version: str
    current: bool
    complete: bool
    files: int
    nbytes: int

    @property
    def state(self) -> str:
        """In a word."""
        if not self.complete:
            return "unfinished"
        return "current" if self.current else "replaced"


@dataclass(frozen=True, slots=True)
class StoreList:
    """The stores of a device."""

    stores: tuple[StoredVersion, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """What was removed from a device."""

    removed: tuple[str, ...]
    freed_bytes: int


def version_folder(name: str, version: str) -> str:
    """Where a version of a store lies."""
    return f"{VERSIONS}/{name}-{version}"


def old_versions(folders: Iterable[str], name: str, current: str) -> list[str]:
    """Of the folders of VERSIONS, the versions of that store other than the current one."""
    matches = (match for folder in folders if (match := _FOLDER.fullmatch(folder)))
    return [match["version"] for match in matches if match["name"] == name and match["version"] != current]


def store_names(device: DeviceFiles) -> list[str]:
    """Names of the complete stores of a device."""
    return [name for name in device.folders(STORES) if not name.startswith(".")]


def stored_versions(device: DeviceFiles) -> tuple[StoredVersion, ...]:
    """Everything that pushes have brought to a device, finished or not."""
    current = {device.target(f"{STORES}/{name}") for name in store_names(device)}
    found: list[StoredVersion] = []
    for folder in device.folders(VERSIONS):
        if match := _FOLDER.fullmatch(folder):
            path = f"{VERSIONS}/{folder}"
            files = device.files(path)
            found.append(
                StoredVersion(
                    match["name"], match["version"], path in current, MANIFEST_FILE in files, len(files),
                    sum(files.values()),
                )
            )  # fmt: skip
    return tuple(found)


def collect_garbage(device: DeviceFiles) -> Freed:
    """Remove the versions that no name leads to, and unfinished files of the others."""
    removed: list[str] = []
    freed_bytes = 0
    for stored in stored_versions(device):
        path = version_folder(stored.name, stored.version)
        if stored.current:
            parts = {f"{path}/{file}": nbytes for file, nbytes in device.files(path).items() if file.endswith(PART)}
        else:
            parts = {path: stored.nbytes}
        for part, nbytes in parts.items():
            device.remove(part)
            removed.append(part)
            freed_bytes += nbytes
    return Freed(tuple(removed), freed_bytes)


def remove_store(device: DeviceFiles, name: str) -> Freed:
    """Remove a store with all its versions. Raises DeviceError if there is none of that name."""
    names = store_names(device)
    versions = [stored for stored in stored_versions(device) if stored.name == name]
    if name not in names and not versions:
        raise DeviceError(f"the device has no store {name!r}; it has {', '.join(names) or 'none'}")
    device.remove(f"{STORES}/{name}")
    for stored in versions:
        device.remove(version_folder(stored.name, stored.version))
    removed = (f"{STORES}/{name}", *(version_folder(stored.name, stored.version) for stored in versions))
    return Freed(removed, sum(stored.nbytes for stored in versions))
