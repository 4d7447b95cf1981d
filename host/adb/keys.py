"""The key by which devices know this user's machine."""

import tempfile
from pathlib import Path
from typing import Protocol

from adb_shell.auth.keygen import keygen
from adb_shell.auth.sign_cryptography import CryptographySigner

from host.local_files import default_root
from shard_store.errors import DeviceError


class Signer(Protocol):
    """Proves that we hold the private key."""

    def Sign(self, data: bytes) -> bytes:  # noqa: N802 - adb-shell's name
        """Signature of a token."""

    def GetPublicKey(self) -> bytes:  # noqa: N802 - adb-shell's name
        """What the device shows a fingerprint of and remembers."""


def load_signer(folder: Path | None = None) -> Signer:
    """The user's key, made at the first use. Raises DeviceError if it can be neither read nor written."""
    path = (folder or default_root()) / "adbkey"
    try:
        if not path.exists():
            _make_key(path)
        signer: Signer = CryptographySigner(str(path))
    except (OSError, ValueError) as error:
        raise DeviceError(f"the key {path} cannot be used ({error}); remove it and {path.name}.pub") from error
    return signer


def _make_key(path: Path) -> None:
    """Write the pair, readable by the user only; the private key comes last, so that both are there with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / path.name
        keygen(str(new))
        new.chmod(0o600)
        new.with_suffix(".pub").replace(path.with_suffix(".pub"))
        new.replace(path)
