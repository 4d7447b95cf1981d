"""The record of a running agent, and its lock."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_agent.record import AgentRecord
from shard_store.errors import DeviceError

CHECKOUT = Path(__file__).parents[1]


def test_a_record_is_there_while_the_agent_runs(tmp_path: Path) -> None:
    home = tmp_path / "a folder" / "within"
    with AgentRecord(home) as record:
        assert not (home / "agent.json").exists()  # it does not listen yet
        record.write("http://127.0.0.1:1", Path("stores/film"))
        found = json.loads((home / "agent.json").read_text())
    assert found == {"pid": os.getpid(), "url": "http://127.0.0.1:1", "store": "film"}
    assert [path.name for path in home.iterdir()] == ["agent.lock"]


def test_a_second_agent_is_not_admitted(tmp_path: Path) -> None:
    with AgentRecord(tmp_path) as record:
        record.write("http://127.0.0.1:1", Path("film"))
        with pytest.raises(DeviceError, match="already runs"):
            AgentRecord(tmp_path)
        assert (tmp_path / "agent.json").exists()
    AgentRecord(tmp_path).close()


def test_one_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, device_agent.record as r\n"
        f"record = r.AgentRecord(pathlib.Path({str(tmp_path)!r}))\n"
        "record.write('http://127.0.0.1:1', pathlib.Path('film'))\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == -9
    assert (tmp_path / "agent.json").exists()
    with AgentRecord(tmp_path):
        assert not (tmp_path / "agent.json").exists()
