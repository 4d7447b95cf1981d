"""What this machine has to package models and reach devices."""

import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from device_agent.requirements import MIN_PYTHON
from host.doctor.check import Check, Level

WHERE = "host"
_PACKAGES = ("tensorflow", "ai-edge-litert", "adb-shell")
_MIN_FREE_BYTES = 2_000_000_000  # a store of BERT-base, twice


def host_checks(folder: Path) -> Iterator[Check]:
    """Findings about this machine; `folder` is where it works."""
    yield _python()
    yield from (_package(name) for name in _PACKAGES)
    yield _usb()
    yield _adb_program()
    yield _space(folder)


def _python() -> Check:
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info >= MIN_PYTHON:
        return Check(WHERE, "python", Level.OK, found)
    return Check(WHERE, "python", Level.PROBLEM, found, "install Python 3.10 or newer")


def _package(name: str) -> Check:
    try:
        return Check(WHERE, name, Level.OK, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(WHERE, name, Level.PROBLEM, "not installed", "pip install 'sti[host]'")


def _usb() -> Check:
    try:
        import usb1  # noqa: PLC0415 - loads a library of the system, which may not be there

        usb1.getVersion()
    except (ImportError, OSError):
        remedy = "install libusb-1.0 to reach devices by USB; adb:HOST:PORT needs none"
        return Check(WHERE, "USB", Level.WARNING, "libusb cannot be loaded", remedy)
    return Check(WHERE, "USB", Level.OK, "libusb can be loaded")


def _adb_program() -> Check:
    path = shutil.which("adb")
    return Check(WHERE, "adb", Level.OK, path or "no adb program; only pairing over Wi-Fi would need one")


def _space(folder: Path) -> Check:
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e6:.0f} MB free in {folder}"
    if free >= _MIN_FREE_BYTES:
        return Check(WHERE, "space", Level.OK, found)
    return Check(WHERE, "space", Level.WARNING, found, "free space before models are packaged here")
