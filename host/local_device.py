"""The local device: a directory of this machine, with an agent as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from host.client import AgentClient
from host.device import STORES, RunningAgent
from host.local_files import LocalFiles, default_root
from shard_store.errors import DeviceError

START_SECONDS = 120.0
STOP_SECONDS = 15.0
_HEALTH_SECONDS = 5.0
_POLL_SECONDS = 0.05

# Agents outlive the LocalDevice that started them; any other one in this process may have to collect them.
_children: dict[int, "subprocess.Popen[bytes]"] = {}


@dataclass(frozen=True, slots=True)
class _Listening:
    """The line that an agent prints once it accepts requests."""

    event: str
    url: str


class LocalDevice(LocalFiles):
    """Stores in `stores/`, the agent's record in `agent.json`, what it prints in `agent.out` and `agent.log`."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root or default_root())
        self._record_path = self.root / "agent.json"
        self._out_path = self.root / "agent.out"
        self._log_path = self.root / "agent.log"

    def start_agent(self, store: str, options: Sequence[str] = ()) -> str:
        """Start the agent and wait until its model is loaded. Raises DeviceError, with the agent's own reason."""
        if running := self.agent():
            raise DeviceError(f"an agent already serves {running.store} at {running.url}; stop it first")
        path = self.path(f"{STORES}/{store}")
        if not path.is_dir():
            raise DeviceError(f"{self.root} has no store {store!r}; push it with `sti push STORE --name {store}`")
        process = self._launch(path, options)
        try:
            url = self._wait_listening(process)
            self._remember(RunningAgent(process.pid, url, store))
            self._wait_loaded(process, url)
        except BaseException:
            process.terminate()
            process.wait(STOP_SECONDS)
            self._record_path.unlink(missing_ok=True)
            raise
        return url

    def _launch(self, store: Path, options: Sequence[str]) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "device_agent.cli", "serve", "--store", str(store), "--port", "0", *options]
        with self._out_path.open("wb") as out, self._log_path.open("wb") as log:
            # A session of its own, so that the agent outlives the terminal it was started from.
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, start_new_session=True
            )
        _children[process.pid] = process
        return process

    def _wait_listening(self, process: "subprocess.Popen[bytes]") -> str:
        for _ in _polls(START_SECONDS):
            self._check_running(process)
            line, newline, _ = self._out_path.read_bytes().partition(b"\n")
            if newline:
                return TypeAdapter(_Listening).validate_json(line).url
        raise DeviceError(f"the agent did not listen within {START_SECONDS:.0f} s; see {self._log_path}")

    def _wait_loaded(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        with AgentClient(url, _HEALTH_SECONDS) as client:
            for _ in _polls(START_SECONDS):
                self._check_running(process)
                health = client.health()
                if health.status == "failed":
                    raise DeviceError(f"the agent cannot load the store: {health.reason}")
                if health.status == "ok":
                    return
        raise DeviceError(f"the agent did not load the store within {START_SECONDS:.0f} s; see {self._log_path}")

    def _check_running(self, process: "subprocess.Popen[bytes]") -> None:
        if process.poll() is not None:
            lines = self._log_path.read_text("utf-8", "replace").splitlines()
            reason = lines[-1].removeprefix("error: ") if lines else f"exit status {process.returncode}"
            raise DeviceError(f"the agent did not start: {reason}")

    def _remember(self, record: RunningAgent) -> None:
        temporary = self._record_path.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(record)), "utf-8")
        temporary.replace(self._record_path)

    def agent(self) -> RunningAgent | None:
        """The agent that runs. The record of one that died is removed."""
        try:
            record = TypeAdapter(RunningAgent).validate_json(self._record_path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise DeviceError(f"{self._record_path} cannot be read; remove it") from error
        if _is_agent(record):
            return record
        self._record_path.unlink(missing_ok=True)
        return None

    def stop_agent(self) -> bool:
        """Stop the agent, by force if it does not follow."""
        record = self.agent()
        if record is None:
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(record.pid, number)
            if any(not _is_alive(record.pid) for _ in _polls(STOP_SECONDS)):
                break
        self._record_path.unlink(missing_ok=True)
        return True

    def agent_log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged."""
        try:
            with self._log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size + offset) if offset < 0 else offset)
                return log.read()
        except OSError as error:
            raise DeviceError(f"{self._log_path}: {error.strerror}; start an agent with `sti agent start`") from error


def _is_agent(record: RunningAgent) -> bool:
    """Whether the process still is the agent: its number may have gone to another since."""
    if not _is_alive(record.pid):
        return False
    try:
        with AgentClient(record.url, _HEALTH_SECONDS) as client:
            return client.health().pid == record.pid
    except DeviceError:
        return False


def _is_alive(pid: int) -> bool:
    """False also for a process that ended and that nobody has collected."""
    if child := _children.get(pid):
        return child.poll() is None
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"


def _polls(seconds: float) -> Iterator[None]:
    """Comes round until the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(_POLL_SECONDS)
