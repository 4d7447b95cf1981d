"""What can be done with a device that stores are pushed to and an agent runs on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Sent = Callable[[int], None]  # bytes that have been copied so far

STORES = "stores"
VERSIONS = "versions"  # stores/NAME leads to versions/NAME-HASH


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent: its process on the device, its URL as seen from this machine, the name of the store it serves."""

    pid: int
    url: str
    store: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file to copy: its first `start` bytes are on the device already, the rest is appended to them."""

    source: Path
    path: str
    start: int = 0


class DeviceFiles(Protocol):
    """Files under the device's folder, named by relative paths with forward slashes.

    Every method raises DeviceError if the device cannot do it, ConnectionLost if it is worth another try.
    """

    def prepare(self, folder: str) -> None:
        """Have a folder that can be written, and in which nothing else writes (as a push that was cut off may)."""

    def files(self, folder: str) -> Mapping[str, int]:
        """Size of each file of a folder, by name; empty if there is no such folder."""

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders in a folder, links to folders included; empty if there is no such folder."""

    def sha256(self, paths: Sequence[str]) -> list[str]:
        """SHA-256 (hexadecimal) of each of the files, read on the device."""

    def free_bytes(self) -> int:
        """Space that files may still take."""

    def put(self, transfers: Sequence[Transfer], sent: Sent) -> None:
        """Copy files of this machine to the device, in order; `sent` counts the bytes of all of them."""

    def rename(self, moves: Sequence[tuple[str, str]]) -> None:
        """Give files or folders new names; a file that has the new name is replaced."""

    def link(self, path: str, target: str) -> None:
        """Let a path lead to a folder, at once, whichever folder it led to before."""

    def target(self, path: str) -> str | None:
        """The folder that a path leads to; None if it is no link."""

    def remove(self, path: str) -> None:
        """Remove a file or a link, or a folder with all its files; nothing happens if there is none."""

    def flush(self) -> None:
        """Have all that was written on the flash."""


class Device(DeviceFiles, Protocol):
    """A device with at most one agent."""

    def start_agent(self, store: str, options: Sequence[str] = ()) -> str:
        """Start the agent on a store, with further options of `sti-agent serve`; its URL once it is ready."""

    def agent(self) -> RunningAgent | None:
        """The agent that runs; None if none does."""

    def stop_agent(self) -> bool:
        """Stop the agent. False if none was running."""

    def agent_log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged, from this byte on; a negative offset counts from the end."""
