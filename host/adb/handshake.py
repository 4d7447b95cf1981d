"""The start of a connection: who we are, and what the device can do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from host.adb.keys import Signer
from host.adb.message import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_SIGNATURE,
    AUTH_TOKEN,
    CNXN,
    MAX_PAYLOAD_BYTES,
    STLS,
    VERSION,
    Message,
    read_message,
    write_message,
)
from host.adb.transport import Transport
from shard_store.errors import ConnectionLost, DeviceError

ANSWER_SECONDS = 10.0
CONSENT_SECONDS = 30.0  # for the user to accept our key on the device's screen
_BANNER = b"host::features=shell_v2,cmd,stat_v2,ls_v2\0"


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the device told of itself. features: such as "shell_v2"."""

    max_payload_bytes: int
    features: frozenset[str]


def shake_hands(transport: Transport, peer: str, signer: Signer) -> Welcome:
    """Say hello, and prove who we are if the device asks. Raises DeviceError if it does not let us in."""
    offline = f"{peer} is offline: it does not answer as ADB does; check the port, or reconnect it"
    with _deadline(transport, ANSWER_SECONDS), _told(offline):
        write_message(transport, CNXN, VERSION, MAX_PAYLOAD_BYTES, _BANNER, checksum=True)
        message = read_message(transport)
        if message.command == AUTH:
            write_message(transport, AUTH, AUTH_SIGNATURE, 0, signer.Sign(_token(message, peer)), checksum=True)
            message = read_message(transport)
    if message.command == AUTH:
        unknown = f"{peer} is unauthorised: unlock its screen, accept this computer's key there, then try again"
        with _deadline(transport, CONSENT_SECONDS), _told(unknown):
            write_message(transport, AUTH, AUTH_PUBLIC_KEY, 0, signer.GetPublicKey() + b"\0", checksum=True)
            message = read_message(transport)
    if message.command == STLS:
        raise DeviceError(f"{peer} wants wireless debugging; run `adb pair` and `adb connect`, then use --via adb")
    if message.command != CNXN:
        raise DeviceError(f"{peer} does not speak ADB; check the port")
    return Welcome(min(MAX_PAYLOAD_BYTES, message.second), _features(message.data))


def _token(message: Message, peer: str) -> bytes:
    if message.first != AUTH_TOKEN or len(message.data) != 20:
        raise DeviceError(f"{peer} asks for a proof that this program does not know; use --via adb")
    return message.data


@contextmanager
def _deadline(transport: Transport, seconds: float) -> Iterator[None]:
    """Closes the transport, which ends any waiting, when the time is up."""
    alarm = threading.Timer(seconds, transport.close)
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


@contextmanager
def _told(reason: str) -> Iterator[None]:
    try:
        yield
    except ConnectionLost as error:
        raise DeviceError(reason) from error


def _features(banner: bytes) -> frozenset[str]:
    """From "device::ro.product.name=x;features=a,b"."""
    for part in banner.rstrip(b"\0").decode("utf-8", "replace").partition("::")[2].split(";"):
        name, _, value = part.partition("=")
        if name == "features":
            return frozenset(value.split(","))
    return frozenset()
