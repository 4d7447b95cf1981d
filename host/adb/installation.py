"""The agent's program on a device: its bundle, and a Python that has what it needs."""

import shlex

from device_agent.requirements import REQUIREMENTS
from host.agent_bundle import BUNDLE_PREFIX, agent_bundle
from host.device_python import DevicePython, candidates, find_python
from host.device_shell import Finished, Shell
from shard_store.errors import DeviceError

INSTALL_SECONDS = 1800.0
_VENV = "venv"


class Installation:
    """A folder of the device with `sti-agent-HASH.zip` and, once installed, a virtual environment `venv`.

    python: the only command to try. install: whether missing requirements may be installed.
    """

    def __init__(self, shell: Shell, folder: str, python: str | None = None, *, install: bool = False) -> None:
        self._shell = shell
        self._python = python
        self._install = install
        self.folder = folder

    def python(self) -> str:
        """The command of a Python that can run the agent. Raises DeviceError with what is missing."""
        found = self._found()
        if self._install and found and not found.facts.old and not found.fit:
            return self._install_with(found.command)
        if found is None:
            raise DeviceError(f"the device has no Python ({self._tried()}); install one or name it with --python")
        if found.facts.old:
            raise DeviceError(f"the device has Python {found.facts.python}, the agent needs 3.10; name a newer one")
        if found.facts.missing:
            missing = ", ".join(found.facts.missing)
            raise DeviceError(f"the device's Python {found.facts.python} lacks {missing}; start with --install")
        return found.command

    def _found(self) -> DevicePython | None:
        return find_python(self._shell, candidates(f"{self.folder}/{_VENV}", self._python))

    def _tried(self) -> str:
        return ", ".join(candidates(f"{self.folder}/{_VENV}", self._python))

    def _install_with(self, python: str) -> str:
        """Make a virtual environment with the agent's requirements; its Python.

        Raises DeviceError with the last words of pip: the device needs a network.
        """
        venv = shlex.quote(f"{self.folder}/{_VENV}")
        self._succeed(f"mkdir -p {shlex.quote(self.folder)} && {python} -m venv {venv}", "make a venv")
        requirements = " ".join(map(shlex.quote, REQUIREMENTS))
        pip = f"{venv}/bin/python -m pip install --disable-pip-version-check --no-input --quiet {requirements}"
        self._succeed(pip, "install the agent's requirements")
        return f"{venv}/bin/python"

    def bundle(self) -> str:
        """Path of the bundle on the device, which is sent if it is not there. Older ones are removed."""
        bundle = agent_bundle()
        folder, path = shlex.quote(self.folder), shlex.quote(f"{self.folder}/{bundle.name}")
        found = self._shell.run(f"sha256sum {path}").out.decode("utf-8", "replace")
        if not found.startswith(bundle.sha256):
            put = f"mkdir -p {folder} && cat > {path}.part && sha256sum {path}.part"
            written = self._succeed(put, "take the agent's program", bundle.content).out.decode("utf-8", "replace")
            if not written.startswith(bundle.sha256):
                raise DeviceError("the agent's program arrived damaged on the device; try again")
            self._succeed(f"rm -f {folder}/{BUNDLE_PREFIX}*.zip && mv {path}.part {path}", "take the agent's program")
        return f"{self.folder}/{bundle.name}"

    def _succeed(self, command: str, action: str, stdin: bytes = b"") -> Finished:
        done = self._shell.run(command, stdin=stdin, timeout_s=INSTALL_SECONDS)
        if done.exit_code:
            printed = (done.err.strip() or done.out.strip()).decode("utf-8", "replace")
            reason = printed.rpartition("\n")[2] or f"exit status {done.exit_code}"
            raise DeviceError(f"the device cannot {action}: {reason}")
        return done
