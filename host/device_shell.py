"""Commands on a device."""

import subprocess
from dataclasses import dataclass
from typing import Protocol

from shard_store.errors import DeviceError


class Finished(Protocol):
    """How a command ended, and what it printed."""

    @property
    def exit_code(self) -> int:
        """0 if it succeeded."""

    @property
    def out(self) -> bytes:
        """Standard output."""

    @property
    def err(self) -> bytes:
        """Standard error."""


class Shell(Protocol):
    """Runs lines of POSIX shell. Raises DeviceError if the device cannot be reached or the time is up."""

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
        """Run a command to its end."""


@dataclass(frozen=True, slots=True)
class LocalResult:
    """How a command of this machine ended."""

    exit_code: int
    out: bytes
    err: bytes


class LocalShell:
    """The shell of this machine."""

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
        """Run a command to its end."""
        try:
            done = subprocess.run(  # noqa: S603 - our own commands
                ["/bin/sh", "-c", command], input=stdin, capture_output=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"a command did not end within {timeout_s:.0f} s; is this machine busy?") from error
        return LocalResult(done.returncode, done.stdout, done.stderr)
