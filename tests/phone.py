"""A phone without a phone: Debian's adbd as uid 2000 in a network namespace, with /data/local/tmp.

Inside, `/data/small` is a file system of 4 MiB, `/data/readonly` one that takes nothing, and `/data/host/` shows this
checkout, the Python that runs the tests and its packages, so that an agent can be started there. `.ci/install-phone`
gets the daemon.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from host.device_spec import DeviceSpec
from tests.kernel import has_crashed
from tests.network import Network

CHECKOUT = Path(__file__).resolve().parents[1]
PORT = 5555
SHELL_UID = 2000  # Android's `shell`
SMALL_BYTES = 4 << 20
PYTHON = f"/data/host/python/bin/python{sys.version_info.major}.{sys.version_info.minor}"
# Has what the agent needs, but not the agent. Its libpython may lie elsewhere where the shell user may not look.
AGENT_PYTHON = f"env LD_LIBRARY_PATH=/data/host/python/lib PYTHONPATH=/data/host/packages {PYTHON}"

_START_SECONDS = 10.0
_TOOLS = "usr/lib/android-sdk/platform-tools"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu/android", "usr/lib/x86_64-linux-gnu")

# Its own mounts, then its own user: nothing of this reaches the machine.
_BOOT = """
set -e
mount --bind "$PHONE/data" /data
mount -t tmpfs -o size=4m,mode=777 tmpfs /data/small
mount -t tmpfs -o ro,mode=777 tmpfs /data/readonly
mount --bind -o ro "$CHECKOUT" /data/host/checkout
mount --bind -o ro "$PYTHON" /data/host/python
mount --bind -o ro "$PACKAGES" /data/host/packages
search=/usr/local/bin:/usr/bin:/bin
if [ -n "$ANDROID" ]; then
    mount --bind "$PHONE/bin/mksh" "$(readlink -f /bin/sh)"
    search="$PHONE/applets"
fi
cd /
exec setpriv --reuid 2000 --regid 2000 --clear-groups env -i PATH="$search" HOME=/data/local/tmp \
    TMPDIR=/data/local/tmp LD_LIBRARY_PATH="$LIBRARIES" ADBD_PORT="$PORT" "$ADBD"
"""


class Phone:
    """Start with `boot`, end with `shut_down`; `kill` and `restart` its adbd, `unplug` and `plug` its cable."""

    def __init__(self, packages: Path) -> None:
        self.network = Network()
        self.folder = Path(tempfile.mkdtemp(prefix="sti-phone-"))
        self._packages = packages
        self._adbd: subprocess.Popen[bytes] | None = None

    @property
    def spec(self) -> DeviceSpec:
        """The phone as `--device` names it."""
        return DeviceSpec.parse(f"adb:{self.network.address}:{PORT}")

    @property
    def storage(self) -> Path:
        """The phone's /data/local/tmp as this machine sees it."""
        return self.folder / "data/local/tmp"

    def boot(self) -> None:
        """Give it a file system and a network, and start adbd."""
        self.folder.chmod(0o755)  # the shell user must find its files
        for name in ("usr", "bin"):
            shutil.copytree(self._packages / name, self.folder / name, symlinks=True)
        self._link_applets()
        for name in ("local/tmp", "small", "readonly", "host/checkout", "host/python", "host/packages"):
            (self.folder / "data" / name).mkdir(parents=True)
        os.chown(self.storage, SHELL_UID, SHELL_UID)
        Path("/data").mkdir(exist_ok=True)  # a place to mount it; stays empty outside
        self.network.up()
        self.restart()

    def _link_applets(self) -> None:
        """Toybox is one program that goes by the name of each of its tools."""
        toybox, folder = self.folder / "bin/toybox", self.folder / "applets"
        folder.mkdir()
        (folder / "sh").symlink_to(self.folder / "bin/mksh")
        for name in subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split():
            (folder / name).symlink_to(toybox)

    def restart(self, android: bool = False) -> None:
        """Start adbd, and wait until it listens. android: with Android's shell and tools, instead of Debian's."""
        environment = {
            **os.environ,
            "PHONE": str(self.folder),
            "CHECKOUT": str(CHECKOUT),
            "PYTHON": sys.base_prefix,
            "PACKAGES": sysconfig.get_path("purelib"),
            "LIBRARIES": ":".join(str(self.folder / folder) for folder in _LIBRARIES),
            "PORT": str(PORT),
            "ANDROID": "yes" if android else "",
            "ADBD": str(self.folder / _TOOLS / "adbd"),
        }
        command = self.network.command("unshare", "--mount", "sh", "-c", _BOOT)
        with (self.folder / "adbd.log").open("ab") as log:
            self._adbd = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((self.network.address, PORT), timeout=1):
                return
            if self._adbd.poll() is not None:
                break
            time.sleep(0.02)
        raise TimeoutError(f"adbd does not listen: {(self.folder / 'adbd.log').read_text()}")

    def kill(self) -> None:
        """Kill adbd alone; what it started lives on until it notices."""
        assert self._adbd is not None
        self._adbd.send_signal(signal.SIGKILL)
        self._adbd.wait()

    def clear(self) -> None:
        """Empty its storage."""
        for path in self.storage.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def adb(self, *arguments: str, server_port: int) -> subprocess.CompletedProcess[str]:
        """Run Debian's adb, with a server of its own."""
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(str(self.folder / folder) for folder in _LIBRARIES),
            "ANDROID_ADB_SERVER_PORT": str(server_port),
            "HOME": str(self.folder),
        }
        program = str(self.folder / _TOOLS / "adb")
        return subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=600
        )

    def shut_down(self) -> None:
        """Give everything back."""
        self.network.down()
        if self._adbd:
            self._adbd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def packages() -> Path:
    """Where `.ci/install-phone` puts adbd."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("STI_PHONE") or cache / "sti-phone") / "root"


def why_not() -> str | None:
    """Why no phone can be had here; None if one can."""
    if has_crashed():
        return "the kernel has crashed before; network namespaces are not safe"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a network namespace needs Linux and root"
    if missing := [program for program in ("ip", "unshare", "setpriv") if shutil.which(program) is None]:
        return f"{missing[0]} is missing"
    if not (packages() / _TOOLS / "adbd").exists() or not (packages() / "bin/toybox").exists():
        return "adbd is missing; run .ci/install-phone"
    return None


@contextlib.contextmanager
def booted_phone() -> Iterator[Phone]:
    """A phone for as long as it is needed."""
    phone = Phone(packages())
    try:
        phone.boot()
        yield phone
    finally:
        phone.shut_down()
