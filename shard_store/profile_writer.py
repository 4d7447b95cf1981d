"""Puts a profile into a store that exists: the manifest is written anew, nothing else changes."""

import os
import secrets
from dataclasses import replace
from pathlib import Path

from shard_store.manifest import Manifest
from shard_store.manifest_json import dump_manifest, parse_manifest
from shard_store.profile import Profile
from shard_store.reader import Store
from shard_store.store_files import MANIFEST_FILE


def write_profile(store_path: Path, profile: Profile) -> Manifest:
    """Replace the store's profile in one rename; a failure leaves the old manifest. Raises FormatError or OSError."""
    with Store.open(store_path) as store:
        manifest = replace(store.manifest, profile=profile)
    data = dump_manifest(manifest)
    parse_manifest(data)  # what is written is what every reader accepts
    partial = store_path.resolve() / f".{MANIFEST_FILE}.{secrets.token_hex(4)}.partial"
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(store_path / MANIFEST_FILE)
    finally:
        partial.unlink(missing_ok=True)
    return manifest
