"""The agent as one file."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from device_agent.requirements import REQUIREMENTS
from host.agent_bundle import agent_bundle
from tests.cli_runs import Sti


def test_the_same_sources_give_the_same_file() -> None:
    bundle = agent_bundle()
    assert bundle == agent_bundle()
    assert bundle.sha256[:12] in bundle.name


def test_it_holds_both_packages_and_nothing_of_the_host() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_bundle().content)) as bundle:
        folders = {name.partition("/")[0] for name in bundle.namelist()}
    assert folders == {"__main__.py", "device_agent", "shard_store"}


def test_the_command_writes_it_and_says_what_it_needs(sti: Sti, tmp_path: Path) -> None:
    done = sti("agent", "bundle", tmp_path / "sti-agent.zip")
    assert (tmp_path / "sti-agent.zip").read_bytes() == agent_bundle().content
    assert done.out.split() == list(REQUIREMENTS)
    assert sti("agent", "bundle", tmp_path / "no" / "folder.zip").code == 1


def test_it_runs_far_from_the_sources(tmp_path: Path) -> None:
    bundle = agent_bundle()
    (tmp_path / bundle.name).write_bytes(bundle.content)
    command = [sys.executable, bundle.name, "serve", "--store", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere/manifest.json: cannot be read")
    version = [sys.executable, "-c", f"import sys; sys.path[0] = {bundle.name!r}; import device_agent as d; print(d)"]
    assert bundle.name in subprocess.run(version, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
