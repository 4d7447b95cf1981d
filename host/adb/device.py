"""A device that is reached by ADB: its files, and its agent."""

from collections.abc import Sequence
from typing import Protocol

from host.adb.files import DEFAULT_FOLDER, AdbFiles
from host.adb.line import AdbLine
from host.device import STORES, RunningAgent
from shard_store.errors import DeviceError


class AgentHost(Protocol):
    """Starts and stops the agent of a device."""

    def start(self, store_path: str, options: Sequence[str] = ()) -> str:
        """Start the agent on a store of the device and wait until its model is loaded; its URL here."""

    def agent(self) -> RunningAgent | None:
        """The agent that runs, with its URL here."""

    def port(self) -> int | None:
        """The port of the running agent on the device."""

    def stop(self) -> bool:
        """Stop the agent. False if none was running."""

    def log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged from this byte on; a negative offset counts from the end."""


class AdbDevice(AdbFiles):
    """Files by ADB; the agent is its host's."""

    def __init__(self, line: AdbLine, agents: AgentHost, folder: str = DEFAULT_FOLDER) -> None:
        super().__init__(line, folder)
        self._agents = agents

    def start_agent(self, store: str, options: Sequence[str] = ()) -> str:
        """Start the agent on a store; its URL once it is ready."""
        if store not in self.folders(STORES):
            raise DeviceError(f"{self.line.spec} has no store {store!r}; push it with `sti push STORE --name {store}`")
        return self._agents.start(f"{self.folder}/{STORES}/{store}", options)

    def agent(self) -> RunningAgent | None:
        """The agent that runs."""
        return self._agents.agent()

    def agent_port(self) -> int | None:
        """The port of the running agent on the device."""
        return self._agents.port()

    def stop_agent(self) -> bool:
        """Stop the agent."""
        return self._agents.stop()

    def agent_log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged."""
        return self._agents.log(offset)
