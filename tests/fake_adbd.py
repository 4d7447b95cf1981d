"""The first words of an adbd that asks for keys, as Android's does and Debian's does not."""

import os
import socket
import threading
from enum import Enum
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from host.adb.message import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_TOKEN,
    CNXN,
    STLS,
    VERSION,
    Message,
    read_message,
    write_message,
)
from host.adb.transport import NetworkTransport
from host.device_spec import DeviceSpec
from shard_store.errors import ConnectionLost

_BANNER = b"device::ro.product.model=Fake;features=shell_v2,cmd\0"


class Manner(Enum):
    """How it treats who connects."""

    ASK_KNOWN = "asks for a key and knows it"
    ASK_ACCEPT = "asks for a key, and its user accepts the new one"
    ASK_IGNORE = "asks for a key, and its user does not look"
    SILENT = "says nothing"
    TLS = "wants wireless debugging"
    OTHER = "speaks something else"


class FakeAdbd:
    """Listens on 127.0.0.1 for as long as the block runs. known: the private key that it trusts."""

    def __init__(self, manner: Manner, known: Path | None = None) -> None:
        self._manner = manner
        self._known = known
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self.shown: bytes | None = None  # the public key that was offered
        self.verified = False

    @property
    def spec(self) -> DeviceSpec:
        return DeviceSpec.parse(f"adb:127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> "FakeAdbd":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        transport = NetworkTransport("", 0)
        transport._connection = client
        try:
            self._talk(transport)
            while True:
                read_message(transport)  # until the other side has had enough
        except ConnectionLost:
            transport.close()

    def _talk(self, transport: NetworkTransport) -> None:
        hello = read_message(transport)
        assert (hello.command, hello.first) == (CNXN, VERSION)
        if self._manner is Manner.OTHER:
            transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif self._manner is Manner.TLS:
            write_message(transport, STLS, VERSION, 0)
        elif self._manner is not Manner.SILENT:
            self._ask(transport)

    def _ask(self, transport: NetworkTransport) -> None:
        token = os.urandom(20)
        write_message(transport, AUTH, AUTH_TOKEN, 0, token)
        self.verified = self._knows(read_message(transport), token)
        if not self.verified:
            write_message(transport, AUTH, AUTH_TOKEN, 0, os.urandom(20))
            offer = read_message(transport)
            assert offer.first == AUTH_PUBLIC_KEY
            self.shown = offer.data
        if self.verified or self._manner is Manner.ASK_ACCEPT:
            write_message(transport, CNXN, VERSION, 1 << 20, _BANNER)

    def _knows(self, answer: Message, token: bytes) -> bool:
        if self._known is None:
            return False
        key = serialization.load_pem_private_key(self._known.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        try:
            key.public_key().verify(answer.data, token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))
        except InvalidSignature:
            return False
        return True
