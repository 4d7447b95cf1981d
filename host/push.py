"""Copies a store to a device: verified on arrival, resumed after an interruption, switched to when complete.

A version grows in `versions/NAME-HASH`; when all of it has been verified there, `stores/NAME` is made to lead to it, in
one rename, and the version it led to before is removed. Whatever fails, `stores/NAME` is a complete store.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from host.device import STORES, VERSIONS, DeviceFiles
from host.landing import Missing, land, missing
from host.versions import old_versions, version_folder
from shard_store.errors import ConnectionLost, DeviceError
from shard_store.manifest import StoredFile
from shard_store.reader import Store
from shard_store.store_files import MANIFEST_FILE

Progress = Callable[[str, int, int], None]  # what is being done, bytes done, bytes in all
Sleep = Callable[[float], None]

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # before each further try once the connection is lost

_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}(\.[A-Za-z0-9_-]{1,50}){0,4}")
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
    tries: int  # more than one if the connection was lost on the way
    seconds: float


@dataclass(slots=True)
class _Job:
    """A store on its way to a device, and what has been sent of it over all tries."""

    source: Path
    name: str
    files: Mapping[str, StoredFile]
    progress: Progress
    sent: set[str] = field(default_factory=set)
    sent_bytes: int = 0
    tries: int = 0

    @property
    def version(self) -> str:
        return self.files[MANIFEST_FILE].sha256[:_HASH_DIGITS]


def store_name(model: str) -> str:
    """The name under which a device keeps a model, such as "all-minilm" for "someone/all-minilm"."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", model.rpartition("/")[2]).strip("-_") or "store"


def push(
    store_path: Path, device: DeviceFiles, progress: Progress, name: str | None = None, sleep: Sleep = time.sleep
) -> PushReport:
    """Bring a store onto a device under a name (default: from the model's).

    A lost connection is tried again, with growing waits. Raises FormatError or ChecksumError for a store that is
    damaged here, DeviceError for whatever goes wrong there.
    """
    started = time.monotonic()
    with Store.open(store_path) as store:
        store.verify(lambda file, done, total: progress(f"verify {file}", done, total))
        files = _files_to_push(store)
        name = store_name(store.manifest.description.model) if name is None else name
    if not _STORE_NAME.fullmatch(name):
        raise DeviceError(f"{name!r} cannot name a store; use letters, digits, '-' and '_'")
    job = _Job(store_path, name, files, progress)
    _persist(job, device, sleep)
    skipped = tuple(file for file in files if file not in job.sent)
    return PushReport(
        name, job.version, tuple(file for file in files if file in job.sent), skipped, job.sent_bytes,
        sum(files[file].nbytes for file in skipped), job.tries, time.monotonic() - started,
    )  # fmt: skip


def _files_to_push(store: Store) -> dict[str, StoredFile]:
    """All files of the store, the manifest last: where it is, the others are complete."""
    manifest = (store.path / MANIFEST_FILE).read_bytes()
    own = StoredFile(len(manifest), hashlib.sha256(manifest).hexdigest())
    return {**store.manifest.files, MANIFEST_FILE: own}


def _persist(job: _Job, device: DeviceFiles, sleep: Sleep) -> None:
    """Try until the store is there, or the connection has been lost too often."""
    for wait_s in WAITS_S:
        try:
            return _bring(job, device)
        except ConnectionLost as error:
            job.progress(f"{error}; next try in {wait_s:.0f} s", 0, 0)
            sleep(wait_s)
    try:
        return _bring(job, device)
    except ConnectionLost as error:
        raise DeviceError(f"{error}; gave up after {job.tries} tries, push again to go on from there") from error


def _bring(job: _Job, device: DeviceFiles) -> None:
    """One try: find out what is missing, send it, switch."""
    job.tries += 1
    folder = version_folder(job.name, job.version)
    device.prepare(folder)
    job.progress("compare", 0, 0)
    lacking = missing(device, folder, job.source, job.files)
    _check_space(device, sum(file.nbytes for file in lacking))
    _send(job, device, folder, lacking)
    _switch(job, device, folder)


def _check_space(device: DeviceFiles, needed_bytes: int) -> None:
    free_bytes = device.free_bytes()
    if needed_bytes and needed_bytes + _MARGIN_BYTES > free_bytes:
        raise DeviceError(
            f"the device has {free_bytes / 1e6:.1f} MB left, the store needs {needed_bytes / 1e6:.1f} MB more; "
            "remove something there, see `sti push --list` and `--gc`, or package fewer bitwidths"
        )


def _send(job: _Job, device: DeviceFiles, folder: str, lacking: list[Missing]) -> None:
    """The manifest last, once all the others are on the flash."""
    total = sum(file.nbytes for file in lacking)
    for last in (False, True):
        part = [file for file in lacking if (file.name == MANIFEST_FILE) is last]
        before = job.sent_bytes
        done = total - part[0].nbytes if last and part else 0

        def sent(nbytes: int, before: int = before, done: int = done) -> None:
            job.sent_bytes = before + nbytes
            job.progress("send", done + nbytes, total)

        job.sent.update(file.name for file in part)
        land(device, folder, job.source, part, sent)
        if part:
            device.flush()


def _switch(job: _Job, device: DeviceFiles, folder: str) -> None:
    """Let the name lead to the new version, then remove the others."""
    home = f"{STORES}/{job.name}"
    target = device.target(home)
    if target is None and job.name in device.folders(STORES):
        # A plain folder, put there by other means, cannot be replaced in one step: it makes way first.
        device.rename([(home, version_folder(job.name, "0" * _HASH_DIGITS))])
    if target != folder:
        device.link(home, folder)
        device.flush()
    for version in old_versions(device.folders(VERSIONS), job.name, job.version):
        device.remove(version_folder(job.name, version))
