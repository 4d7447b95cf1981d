"""The log of a device's agent, in parts."""

from collections.abc import Callable, Iterator

from host.device import Device


def last_lines(log: bytes, lines: int) -> bytes:
    """The last lines of a log."""
    return b"".join(log.splitlines(keepends=True)[-lines:]) if lines else b""


def follow(device: Device, offset: int, pause: Callable[[], None]) -> Iterator[bytes]:
    """What is logged after `offset`, until no agent runs."""
    while True:
        running = device.agent() is not None
        part = device.agent_log(offset)
        offset += len(part)
        if part:
            yield part
        if not running:
            return
        pause()
