"""What can be done with a device that stores are pushed to and an agent runs on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Sent = Callable[[int], None]  # bytes of the file that have been copied so far

STORES = "stores"


@dataclass(frozen=True, slots=True)
class RunningAgent:
    """An agent: its process on the device, its URL as seen from this machine, the name of the store it serves."""

    pid: int
    url: str
    store: str


class Device(Protocol):
    """Files under the device's folder, named by relative paths with forward slashes, and at most one agent.

    Every method raises DeviceError if the device cannot do it.
    """

    def files(self, folder: str) -> Mapping[str, int]:
        """Size of each file of a folder, by name; empty if there is no such folder."""

    def folders(self, folder: str) -> Sequence[str]:
        """Names of the folders in a folder; empty if there is no such folder."""

    def sha256(self, path: str) -> str:
        """SHA-256 (hexadecimal) of a file, read on the device."""

    def free_bytes(self) -> int:
        """Space that files may still take."""

    def put(self, source: Path, path: str, sent: Sent) -> None:
        """Copy a file of this machine to the device; folders on the way are made."""

    def rename(self, path: str, new_path: str) -> None:
        """Rename a file or a folder; a file that has the new name is replaced."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all its files; nothing happens if there is none."""

    def start_agent(self, store: str, options: Sequence[str] = ()) -> str:
        """Start the agent on a store, with further options of `sti-agent serve`; its URL once it is ready."""

    def agent(self) -> RunningAgent | None:
        """The agent that runs; None if none does."""

    def stop_agent(self) -> bool:
        """Stop the agent. False if none was running."""

    def agent_log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged, from this byte on; a negative offset counts from the end."""
