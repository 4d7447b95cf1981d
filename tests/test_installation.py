"""The agent's program on a device."""

import shlex
import sys
from pathlib import Path

import pytest

from host.adb.installation import Installation
from host.agent_bundle import agent_bundle
from host.device_shell import Finished, LocalResult, LocalShell
from shard_store.errors import DeviceError


class Watched(LocalShell):
    """Notes how many bytes the commands were fed."""

    def __init__(self) -> None:
        self.fed = 0

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
        self.fed += len(stdin)
        return super().run(command, stdin=stdin, timeout_s=timeout_s)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "an agent's folder"


def bare_python(tmp_path: Path, pip: str) -> str:
    """A Python without packages, whose venv has a `pip` that is a line of shell."""
    path = tmp_path / "python"
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1 $2" = "-m venv" ]; then\n'
        f'mkdir -p "$3/bin"; cd "$3/bin"; printf "#!/bin/sh\\n%s\\n" \'{pip}\' > python; chmod +x python\n'
        f"else exec {sys.executable} -I -S \"$@\"; fi\n"
    )  # fmt: skip
    path.chmod(0o755)
    return str(path)


def test_the_bundle_is_sent_once(folder: Path) -> None:
    shell = Watched()
    installation = Installation(shell, str(folder))
    path = Path(installation.bundle())
    assert path.read_bytes() == agent_bundle().content
    assert shell.fed == path.stat().st_size
    assert Path(installation.bundle()) == path
    assert shell.fed == path.stat().st_size


def test_a_damaged_or_an_older_bundle_makes_way(folder: Path) -> None:
    folder.mkdir()
    (folder / "sti-agent-000000000000.zip").write_bytes(b"old")
    (folder / agent_bundle().name).write_bytes(b"damaged")
    path = Path(Installation(LocalShell(), str(folder)).bundle())
    assert list(folder.iterdir()) == [path]
    assert path.read_bytes() == agent_bundle().content


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"cannot take the agent's program: mkdir: .*Not a directory"):
        Installation(LocalShell(), str(tmp_path / "file" / "x")).bundle()


def test_a_bundle_that_arrives_damaged_is_not_used(folder: Path) -> None:
    class Lossy(LocalShell):
        def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
            return super().run(command, stdin=stdin[:-1], timeout_s=timeout_s)

    with pytest.raises(DeviceError, match="arrived damaged"):
        Installation(Lossy(), str(folder)).bundle()
    assert not list(folder.glob("*.zip"))


def test_a_python_that_has_everything_is_used_as_it_is(folder: Path) -> None:
    installation = Installation(LocalShell(), str(folder), sys.executable, install=True)
    assert installation.python() == sys.executable
    assert not folder.exists()


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    installation = Installation(LocalShell(), str(folder), bare_python(tmp_path, "exit 1"))
    with pytest.raises(DeviceError, match=r"lacks ai-edge-litert>=2.3,<2.4, .*; start with --install"):
        installation.python()
    with pytest.raises(DeviceError, match="has no Python"):
        Installation(LocalShell(), str(folder), "no-such-python", install=True).python()


def test_installing_makes_a_venv_and_runs_pip_there(folder: Path, tmp_path: Path) -> None:
    python = bare_python(tmp_path, 'echo "$@" >> "$(dirname "$0")/asked"')
    found = Installation(LocalShell(), str(folder), python, install=True).python()
    assert found == f"{shlex.quote(str(folder / 'venv'))}/bin/python"
    asked = (folder / "venv" / "bin" / "asked").read_text()
    assert asked.startswith("-m pip install") and "ai-edge-litert>=2.3,<2.4" in asked


def test_pips_last_words_are_the_reason(folder: Path, tmp_path: Path) -> None:
    python = bare_python(tmp_path, 'echo "trying" >&2; echo "ERROR: No matching distribution found" >&2; exit 1')
    with pytest.raises(DeviceError, match="cannot install the agent's requirements: ERROR: No matching distribution"):
        Installation(LocalShell(), str(folder), python, install=True).python()


def test_a_python_without_venv_is_told(folder: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nif [ "$1" = -m ]; then echo "No module named venv" >&2; exit 1; fi\n'
        f'exec {sys.executable} -I -S "$@"\n'
    )
    python.chmod(0o755)
    with pytest.raises(DeviceError, match="cannot make a venv: No module named venv"):
        Installation(LocalShell(), str(folder), str(python), install=True).python()


def test_a_command_that_says_nothing_has_an_exit_status(folder: Path) -> None:
    class Silent(LocalShell):
        def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60) -> Finished:
            return LocalResult(7, b"", b"")

    with pytest.raises(DeviceError, match="exit status 7"):
        Installation(Silent(), str(folder)).bundle()
