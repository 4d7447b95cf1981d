"""What a profile has measured so far, kept beside the store so that a killed one can go on."""

import hashlib
import math
import secrets
import time
import zipfile

import numpy as np

from host.profile.jobs import Job, Outcome, Task

_SAVE_SECONDS = 5.0
_PARTS = ("losses", "metrics")


class PartialResults:
    """Outcomes by job, saved every few seconds to `.NAME.profile-KEY.npz`: written aside, then renamed."""

    def __init__(self, task: Task) -> None:
        store = task.store.resolve()
        key = hashlib.sha256(f"{task.manifest_sha256} {task.sample.sha256}".encode()).hexdigest()[:16]
        self.path = store.parent / f".{store.name}.profile-{key}.npz"
        self._found: dict[str, Outcome] = {}
        self._saved_at = -math.inf

    def load(self) -> None:
        """Take up what an earlier run left; a damaged file counts as none."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = {name.rpartition(".")[0] for name in arrays.files}
                self._found = {name: Outcome(*(arrays[f"{name}.{part}"] for part in _PARTS)) for name in names}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self._found = {}

    def get(self, job: Job) -> Outcome | None:
        """What was measured, if it was."""
        return self._found.get(job.name)

    def add(self, job: Job, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._found[job.name] = outcome
        if time.monotonic() - self._saved_at > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all outcomes in one rename."""
        arrays = {f"{name}.{part}": getattr(found, part) for name, found in self._found.items() for part in _PARTS}
        aside = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.partial")
        try:
            with aside.open("xb") as file:
                np.savez(file, **arrays)
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """The profile is written: nothing is left to go on with."""
        self.path.unlink(missing_ok=True)
