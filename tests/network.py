"""A network namespace that is joined to this machine by a cable (a veth pair, MTU 1500)."""

import contextlib
import os
import signal
import subprocess
import time

from tests.kernel import has_crashed

MTU = 1500
_IP_SECONDS = 20
_SETTLE_SECONDS = 0.3


class Network:
    """The namespace NAME at `address`; this machine is at `gateway`. Make with `up`, give back with `down`."""

    def __init__(self) -> None:
        number = os.getpid() % (1 << 14)
        self.name = f"sti{os.getpid()}"
        self._cable = f"{self.name}h"
        block = 4 * number  # four addresses of 198.18.0.0/16, which is set aside for tests of networks
        self.gateway = f"198.18.{block >> 8}.{(block & 255) + 1}"
        self.address = f"198.18.{block >> 8}.{(block & 255) + 2}"

    def up(self) -> None:
        """Make the namespace and plug the cable in at both ends."""
        inner = f"{self.name}p"
        ip("netns", "add", self.name)
        ip(
            "link",
            "add",
            self._cable,
            "mtu",
            MTU,
            "type",
            "veth",
            "peer",
            "name",
            inner,
            "mtu",
            MTU,
            "netns",
            self.name,
        )
        ip("addr", "add", f"{self.gateway}/30", "dev", self._cable)
        ip("-n", self.name, "addr", "add", f"{self.address}/30", "dev", inner)
        for target in (("-n", self.name, "link", "set", "lo"), ("-n", self.name, "link", "set", inner)):
            ip(*target, "up")
        self.plug()

    def plug(self) -> None:
        """Let packets pass."""
        ip("link", "set", self._cable, "up")

    def unplug(self) -> None:
        """Let packets vanish, as if the cable were pulled: neither side is told."""
        ip("link", "set", self._cable, "down")

    def command(self, *command: str) -> list[str]:
        """A command line that runs inside."""
        return ["ip", "netns", "exec", self.name, *command]

    def pids(self) -> list[int]:
        """The processes inside."""
        return [int(line) for line in ip("netns", "pids", self.name).split()]

    def down(self) -> None:
        """Unmake it in the one order that is safe.

        Deleting the cable while the namespace falls down has crashed kernels, after which no `ip` ever returns. So the
        cable goes first, while a process still holds the namespace; then the processes; then the namespace.
        """
        if has_crashed():
            return
        with contextlib.suppress(OSError):  # there may be none, if `up` failed
            ip("link", "delete", self._cable)
        time.sleep(_SETTLE_SECONDS)
        self.kill_all()
        time.sleep(_SETTLE_SECONDS)
        ip("netns", "delete", self.name)

    def kill_all(self) -> None:
        """Kill the processes inside and wait until they are gone."""
        for _ in range(50):
            pids = self.pids()
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        raise TimeoutError(f"processes {pids} of {self.name} do not die")


def ip(*arguments: object) -> str:
    """Run `ip`; what it prints. Never waits for long: a hung one would take the whole run with it."""
    command = ["ip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_IP_SECONDS)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
