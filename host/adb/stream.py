"""A two-way stream of bytes to a service of the device."""

from typing import Protocol


class Stream(Protocol):
    """One conversation; several may be open at once. Reading and writing may happen in two threads."""

    def read(self, timeout_s: float | None = None) -> bytes:
        """The next bytes, none once the device has closed. Raises ConnectionLost, `timeout_s` of silence included."""

    def write(self, data: bytes | memoryview) -> None:
        """Send everything. Raises StreamClosed once the device has closed, ConnectionLost if the link broke."""

    def close(self) -> None:
        """End the conversation; again is allowed."""


class Link(Protocol):
    """What carries streams."""

    @property
    def features(self) -> frozenset[str]:
        """What the device's adbd can do, such as "shell_v2"."""

    def open(self, service: str) -> Stream:
        """Open a service such as "tcp:80". Raises DeviceError if the device refuses it."""

    def close(self) -> None:
        """Close the link and with it all streams."""


class StreamClosed(Exception):  # noqa: N818 - not an error of its own: what the device said before tells why
    """The device has closed the stream while there was more to send."""
