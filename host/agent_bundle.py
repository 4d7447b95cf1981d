"""The agent as one file: its two packages in a zip that Python runs as it is."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import device_agent
import shard_store

BUNDLE_PREFIX = "sti-agent-"
_MAIN = "from device_agent.cli import main\n\nmain()\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same sources give the same bytes
_HASH_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Bundle:
    """A zip file, to be run as `python FILE serve --store DIR`, under a name that tells its content."""

    name: str
    content: bytes
    sha256: str


def agent_bundle() -> Bundle:
    """Pack the packages as they are installed here."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as bundle:
        _add(bundle, "__main__.py", _MAIN)
        for package in (device_agent, shard_store):
            folder = Path(package.__file__ or "").parent
            for source in sorted(folder.rglob("*.py")):
                _add(bundle, source.relative_to(folder.parent).as_posix(), source.read_text("utf-8"))
    content = target.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return Bundle(f"{BUNDLE_PREFIX}{digest[:_HASH_DIGITS]}.zip", content, digest)


def _add(bundle: zipfile.ZipFile, name: str, text: str) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    bundle.writestr(info, text)
