"""Copies a store to a device: verified on arrival, resumed after an interruption, switched to when complete.

A new version grows in `stores/NAME.new-HASH`; when all of it has been verified there, the old version makes way for it.
Whatever fails before that leaves the old version as it was.
"""

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from host.device import STORES, Device
from shard_store.errors import DeviceError
from shard_store.manifest import StoredFile
from shard_store.reader import Store
from shard_store.store_files import MANIFEST_FILE

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all

_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.[A-Za-z0-9_-]{1,50}){0,4}")
_RESERVED = re.compile(r"\.(old$|new-)")
_HASH_DIGITS = 12
_MARGIN_BYTES = 1 << 20  # for folders and the file system's own blocks


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push did."""

    name: str
    version: str  # first digits of the manifest's SHA-256
    sent: tuple[str, ...]  # files
    skipped: tuple[str, ...]  # files that were there already, verified again
    sent_bytes: int
    skipped_bytes: int
    seconds: float


def store_name(model: str) -> str:
    """The name under which a device keeps a model, such as "all-minilm" for "someone/all-minilm"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", model.rpartition("/")[2]).strip("-_") or "store"


def push(store_path: Path, device: Device, progress: Progress, name: str | None = None) -> PushReport:
    """Bring a store onto a device under a name (default: from the model's).

    Raises FormatError or ChecksumError for a store that is damaged here, DeviceError for whatever goes wrong there.
    """
    started = time.monotonic()
    with Store.open(store_path) as store:
        store.verify(lambda file, done, total: progress(f"verify {file}", done, total))
        files = _files_to_push(store)
        name = store_name(store.manifest.description.model) if name is None else name
    if not _STORE_NAME.fullmatch(name) or _RESERVED.search(name):
        raise DeviceError(f"{name!r} cannot name a store; use letters, digits, '-' and '_'")
    version = files[MANIFEST_FILE].sha256[:_HASH_DIGITS]
    home = f"{STORES}/{name}"
    _settle(device, home)
    folder = home if _holds(device, home, MANIFEST_FILE, files[MANIFEST_FILE]) else f"{home}.new-{version}"
    skipped = [file for file, stored in files.items() if _holds(device, folder, file, stored)]
    sent = [file for file in files if file not in skipped]
    _drop_unfinished(device, home, keep=folder)
    _check_space(device, sum(files[file].nbytes for file in sent))
    _send(device, store_path, folder, {file: files[file] for file in sent}, progress)
    if folder != home:
        _switch(device, home, folder)
    return PushReport(
        name, version, tuple(sent), tuple(skipped), sum(files[file].nbytes for file in sent),
        sum(files[file].nbytes for file in skipped), time.monotonic() - started,
    )  # fmt: skip


def _files_to_push(store: Store) -> dict[str, StoredFile]:
    """All files of the store, the manifest last: where it is, the others are complete."""
    manifest = (store.path / MANIFEST_FILE).read_bytes()
    own = StoredFile(len(manifest), hashlib.sha256(manifest).hexdigest())
    return {**store.manifest.files, MANIFEST_FILE: own}


def _holds(device: Device, folder: str, file: str, stored: StoredFile) -> bool:
    """Whether the device has the file, to the last bit."""
    return device.files(folder).get(file) == stored.nbytes and device.sha256(f"{folder}/{file}") == stored.sha256


def _drop_unfinished(device: Device, home: str, keep: str) -> None:
    """Remove what is left of pushes of other versions that were never finished."""
    prefix = f"{home.rpartition('/')[2]}.new-"
    for folder in device.folders(STORES):
        if folder.startswith(prefix) and f"{STORES}/{folder}" != keep:
            device.remove(f"{STORES}/{folder}")


def _check_space(device: Device, needed_bytes: int) -> None:
    free_bytes = device.free_bytes()
    if needed_bytes and needed_bytes + _MARGIN_BYTES > free_bytes:
        raise DeviceError(
            f"the device has {free_bytes / 1e6:.1f} MB left, the store needs {needed_bytes / 1e6:.1f} MB more; "
            "remove something there or package fewer bitwidths"
        )


def _send(device: Device, source: Path, folder: str, files: dict[str, StoredFile], progress: Progress) -> None:
    total = sum(stored.nbytes for stored in files.values())
    before = 0
    for file, stored in files.items():
        part = f"{folder}/{file}.part"

        def sent(done: int, file: str = file, before: int = before) -> None:
            progress(f"send {file}", before + done, total)

        device.put(source / file, part, sent)
        if device.sha256(part) != stored.sha256:
            device.remove(part)
            raise DeviceError(f"{file} arrived damaged; push again, what has arrived intact is not sent twice")
        device.rename(part, f"{folder}/{file}")
        before += stored.nbytes


def _switch(device: Device, home: str, folder: str) -> None:
    """Put the new version in the old one's place; if that fails, the old one goes back."""
    old = f"{home}.old"
    replaces = bool(device.files(home))
    if replaces:
        device.rename(home, old)
    try:
        device.rename(folder, home)
    except BaseException:
        if replaces:
            device.rename(old, home)
        raise
    device.remove(old)


def _settle(device: Device, home: str) -> None:
    """Finish or undo a switch that was cut off: the old version is only of use while there is no other."""
    old = f"{home}.old"
    if device.files(old):
        if device.files(home):
            device.remove(old)
        else:
            device.rename(old, home)
