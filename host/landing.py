"""Files landed on a device: each sent to NAME.part, hashed there, compared, renamed. What is there is not sent."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from host.device import DeviceFiles, Sent, Transfer
from shard_store.errors import DeviceError
from shard_store.manifest import StoredFile

PART = ".part"
_BATCH_FILES = 256
_BATCH_BYTES = 16 << 20  # so many travel together
_SMALL_BYTES = 1 << 20  # not worth going on with
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that the device lacks: the first `start` bytes of it are there, verified, as NAME.part."""

    name: str
    stored: StoredFile
    start: int = 0

    @property
    def nbytes(self) -> int:
        """What is left to send."""
        return self.stored.nbytes - self.start


def missing(device: DeviceFiles, folder: str, source: Path, files: Mapping[str, StoredFile]) -> list[Missing]:
    """Which of the files the device does not hold, to the last bit, in their order."""
    there = device.files(folder)
    same_size = [name for name, stored in files.items() if there.get(name) == stored.nbytes]
    hashes = dict(zip(same_size, device.sha256([f"{folder}/{name}" for name in same_size]), strict=True))
    lacking = {name: stored for name, stored in files.items() if hashes.get(name) != stored.sha256}
    begun = {
        name: nbytes
        for name, stored in lacking.items()
        if stored.nbytes > _SMALL_BYTES and 0 < (nbytes := there.get(name + PART, 0)) <= stored.nbytes
    }
    parts = dict(zip(begun, device.sha256([f"{folder}/{name}{PART}" for name in begun]), strict=True))
    starts = {name: begun[name] for name, found in parts.items() if _prefix_sha256(source / name, begun[name]) == found}
    return [Missing(name, stored, starts.get(name, 0)) for name, stored in lacking.items()]


def land(device: DeviceFiles, folder: str, source: Path, files: Sequence[Missing], sent: Sent) -> None:
    """Bring the files to the device. Those that arrived damaged are removed there, and DeviceError says so.

    While one batch is hashed on the device, the next is on its way.
    """
    done = 0
    with ThreadPoolExecutor(1, "verify") as verifier:
        verified: Future[None] | None = None
        for batch in _batches(files):
            transfers = [Transfer(source / file.name, f"{folder}/{file.name}{PART}", file.start) for file in batch]
            device.put(transfers, lambda nbytes, before=done: sent(before + nbytes))  # type: ignore[misc]
            done += sum(file.nbytes for file in batch)
            if verified:
                verified.result()
            verified = verifier.submit(_verify, device, folder, batch)
        if verified:
            verified.result()


def _batches(files: Sequence[Missing]) -> Iterator[list[Missing]]:
    batch: list[Missing] = []
    nbytes = 0
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or nbytes + file.stored.nbytes > _BATCH_BYTES):
            yield batch
            batch, nbytes = [], 0
        batch.append(file)
        nbytes += file.stored.nbytes
    if batch:
        yield batch


def _verify(device: DeviceFiles, folder: str, batch: Sequence[Missing]) -> None:
    parts = [f"{folder}/{file.name}{PART}" for file in batch]
    hashes = device.sha256(parts)
    good = [part for part, file, found in zip(parts, batch, hashes, strict=True) if found == file.stored.sha256]
    device.rename([(part, part.removesuffix(PART)) for part in good])
    for part in sorted(set(parts).difference(good)):
        device.remove(part)
        name = part.removesuffix(PART).rpartition("/")[2]
        raise DeviceError(f"{name} arrived damaged; push again, what has arrived intact is not sent twice")


def _prefix_sha256(path: Path, nbytes: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while nbytes > 0 and (chunk := file.read(min(nbytes, _CHUNK_BYTES))):
            digest.update(chunk)
            nbytes -= len(chunk)
    return digest.hexdigest()
