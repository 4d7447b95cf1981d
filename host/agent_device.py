"""A device with its agent, for as long as it is needed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from host.adb.agent import ShellAgent
from host.adb.connection import Via, connect
from host.adb.device import AdbDevice
from host.adb.files import DEFAULT_FOLDER
from host.adb.forward import forward
from host.adb.installation import Installation
from host.adb.line import AdbLine
from host.device import Device
from host.device_spec import DeviceKind, DeviceSpec
from host.local_device import LocalDevice

LOCAL = DeviceSpec(DeviceKind.LOCAL)


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """A device and how to use it. root: its folder. python, install: see Installation; without meaning locally."""

    spec: DeviceSpec = LOCAL
    via: Via = Via.DIRECT
    root: Path | None = None
    python: str | None = None
    install: bool = False

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.spec.kind is DeviceKind.LOCAL

    @property
    def folder(self) -> str:
        """Folder of a device that is reached by ADB."""
        return DEFAULT_FOLDER if self.root is None else self.root.as_posix()


@contextmanager
def agent_device(choice: DeviceChoice) -> Iterator[Device]:
    """The device; at the end its connections are closed, and the ports that lead to its agent."""
    if choice.is_local:
        yield LocalDevice(choice.root)
        return
    with ExitStack() as stack:
        line = AdbLine(choice.spec, choice.via)
        stack.callback(line.close)

        @cache
        def forwarded(port: int) -> str:
            return stack.enter_context(forward(lambda: connect(choice.spec, choice.via), port)).url

        installation = Installation(line, choice.folder, choice.python, install=choice.install)
        yield AdbDevice(line, ShellAgent(line, installation, forwarded), choice.folder)
