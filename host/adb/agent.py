"""The agent of a device that is reached by its shell: started, found again, stopped; its log."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from host.adb.installation import Installation
from host.agent_bundle import BUNDLE_PREFIX
from host.client import AgentClient, Health
from host.device import RunningAgent
from host.device_shell import Shell
from shard_store.errors import DeviceError

START_SECONDS = 180.0
STOP_SECONDS = 15
_HEALTH_SECONDS = 10.0
_BIRTH_SECONDS = 10.0  # until there is a process at all
_POLL_SECONDS = 0.2

# In a session of its own, so that it survives the shell and the connection; toybox's setsid knows no -f.
_LAUNCH = """
cd {folder} && rm -f agent.out agent.log agent.pid || exit 1
if setsid -f true 2> /dev/null; then setsid -f sh -c {run} < /dev/null > agent.out 2> agent.log
else (setsid sh -c {run} < /dev/null > agent.out 2> agent.log &)
fi
"""
_RUN = "echo $$ > agent.pid; exec {python} {bundle} serve --store {store} --port 0 --home {folder} {options}"
# The line that the agent prints when it listens, then whether its process has ended.
_STARTING = """
cd {folder} && head -n 1 agent.out
if ! p=$(cat agent.pid); then echo unborn; elif [ ! -d /proc/$p ]; then echo ended; fi
"""
# A number may have gone to another process since, so a process is the agent only if its command line says so.
_ALIVE = "grep -qF -e {mark} /proc/{pid}/cmdline 2> /dev/null"
_STOP = """
alive() {{ {alive}; }}
kill {pid}; n=0
while alive && [ $n -lt {polls} ]; do sleep 0.2; n=$((n + 1)); done
if alive; then kill -9 {pid}; fi
rm -f {folder}/agent.json
"""

Forwarded = Callable[[int], str]  # port on the device -> URL on this machine


class ShellAgent:
    """At most one agent, in a folder of the device: `agent.json`, `agent.out` and `agent.log`, as on the local device.

    forwarded: opens a way to a port of the device.
    """

    def __init__(self, shell: Shell, installation: Installation, forwarded: Forwarded) -> None:
        self._shell = shell
        self._installation = installation
        self._folder = installation.folder
        self._forwarded = forwarded

    def start(self, store_path: str, options: Sequence[str] = ()) -> str:
        """Start the agent on a store of the device and wait until its model is loaded; its URL here.

        Raises DeviceError, with the agent's own reason.
        """
        if record := self._record():
            raise DeviceError(f"an agent already serves {record.store} on the device; stop it first")
        python = self._installation.python()
        self._launch(python, self._installation.bundle(), store_path, options)
        try:
            url = self._wait_listening()
            here = self._forwarded(_port(url))
            self._wait_loaded(here)
        except BaseException:
            self.stop()
            raise
        return here

    def _launch(self, python: str, bundle: str, store_path: str, options: Sequence[str]) -> None:
        folder = shlex.quote(self._folder)
        run = _RUN.format(
            python=python, bundle=shlex.quote(bundle), store=shlex.quote(store_path), folder=folder,
            options=" ".join(map(shlex.quote, options)),
        )  # fmt: skip
        done = self._shell.run(_LAUNCH.format(folder=folder, run=shlex.quote(run)))
        if done.exit_code:
            raise DeviceError(f"the device cannot start the agent: {_text(done.err) or 'its shell has no setsid'}")

    def _wait_listening(self) -> str:
        """The agent's URL on the device."""
        born = time.monotonic() + _BIRTH_SECONDS
        for _ in _polls(START_SECONDS):
            printed = self._shell.run(_STARTING.format(folder=shlex.quote(self._folder))).out
            line, _, rest = _text(printed).partition("\n")
            if line.startswith("{"):
                return _listening_url(line)
            state = rest.strip() or line
            if state == "ended" or (state == "unborn" and time.monotonic() > born):
                raise DeviceError(f"the agent did not start: {self._last_words()}")
        raise DeviceError(f"the agent did not listen within {START_SECONDS:.0f} s; see `sti agent logs`")

    def _wait_loaded(self, url: str) -> None:
        with AgentClient(url, _HEALTH_SECONDS) as client:
            for _ in _polls(START_SECONDS):
                health = _health(client)
                if health is None and self._record() is None:
                    raise DeviceError(f"the agent ended while it loaded the store: {self._last_words()}")
                if health is None:
                    continue
                if health.status == "failed":
                    raise DeviceError(f"the agent cannot load the store: {health.reason}")
                if health.status == "ok":
                    return
        raise DeviceError(f"the agent did not load the store within {START_SECONDS:.0f} s; see `sti agent logs`")

    def agent(self) -> RunningAgent | None:
        """The agent that runs, with its URL here."""
        record = self._record()
        return replace(record, url=self._forwarded(_port(record.url))) if record else None

    def port(self) -> int | None:
        """Port of the running agent on the device."""
        record = self._record()
        return _port(record.url) if record else None

    def _record(self) -> RunningAgent | None:
        """The running agent with its URL on the device. The record of one that died is removed."""
        path = shlex.quote(f"{self._folder}/agent.json")
        done = self._shell.run(f"cat {path}")
        if done.exit_code:
            return None
        try:
            record = TypeAdapter(RunningAgent).validate_json(done.out)
        except ValidationError as error:
            raise DeviceError(f"{self._folder}/agent.json on the device cannot be read; remove it") from error
        if self._shell.run(self._alive(record.pid)).exit_code == 0:
            return record
        self._shell.run(f"rm -f {path}")
        return None

    def _alive(self, pid: int) -> str:
        return _ALIVE.format(pid=pid, mark=shlex.quote(f"{self._folder}/{BUNDLE_PREFIX}"))

    def stop(self) -> bool:
        """Stop the agent, by force if it does not follow. False if none was running."""
        pid = self._pid()
        if pid is None:
            return False
        folder = shlex.quote(self._folder)
        stop = _STOP.format(alive=self._alive(pid), pid=pid, polls=STOP_SECONDS * 5, folder=folder)
        self._shell.run(stop, timeout_s=STOP_SECONDS * 2)
        return True

    def _pid(self) -> int | None:
        """Of the running agent, also of one that does not listen yet."""
        if record := self._record():
            return record.pid
        text = _text(self._shell.run(f"cat {shlex.quote(self._folder)}/agent.pid").out)
        if text.isdecimal() and self._shell.run(self._alive(int(text))).exit_code == 0:
            return int(text)
        return None

    def log(self, offset: int = 0) -> bytes:
        """What the agent last started has logged from this byte on; a negative offset counts from the end."""
        count = str(offset) if offset < 0 else f"+{offset + 1}"
        done = self._shell.run(f"tail -c {count} {shlex.quote(self._folder)}/agent.log")
        if done.exit_code:
            raise DeviceError("the device has no log of an agent; start one with `sti agent start`")
        return done.out

    def _last_words(self) -> str:
        lines = _text(self.log(-4096)).splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"


def _health(client: AgentClient) -> Health | None:
    """None if nobody answers."""
    try:
        return client.health()
    except DeviceError:
        return None


def _listening_url(line: str) -> str:
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError) as error:
        raise DeviceError(f"what started on the device is no agent: it says {line[:80]!r}") from error


def _port(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise DeviceError(f"the agent on the device has no port in its URL {url!r}; stop it and start it again")
    return port


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()


def _polls(seconds: float) -> Iterator[None]:
    """Comes round until the time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(_POLL_SECONDS)
