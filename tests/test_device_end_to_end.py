"""From a checkpoint to an answer of a device that is reached by ADB, with nothing faked.

The device is the phone that tests start, or the one that $STI_TEST_DEVICE names (docker/compose.yaml); $STI_TEST_PYTHON
is the command of its Python, if that is not found by itself.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from device_agent.engine import Engine
from host.adb.line import AdbLine
from host.client import AgentClient
from host.device_python import candidates, find_python
from host.device_spec import DeviceSpec
from tests.cli_runs import Sti
from tests.packaging import package_quietly
from tests.phone import AGENT_PYTHON, CHECKOUT

TEXTS = ("the cat sat on the mat", "Streaming beats stalling.")
BITS = (4, 32)
ROOT = "/data/local/tmp/sti test"


@pytest.fixture(scope="module")
def store(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_quietly(minilm, tmp_path_factory.mktemp("minilm") / "store", sequences=(32,), bitwidths=BITS)


@pytest.fixture
def small_store(golden_store: Callable[[str], Path]) -> Path:
    return golden_store("bert-embedding")


class Target:
    """The device under test, as options of `sti`."""

    def __init__(self, spec: DeviceSpec, python: str | None) -> None:
        self.spec = spec
        self.python = ("--python", python) if python else ()
        self.device = ("--device", str(spec), "--root", ROOT)

    def shell(self, command: str) -> str:
        line = AdbLine(self.spec)
        try:
            return line.run(command).text
        finally:
            line.close()


@pytest.fixture
def bare(request: pytest.FixtureRequest) -> Iterator[Target]:
    """A device with nothing in the folder of these tests."""
    if named := os.environ.get("STI_TEST_DEVICE"):
        target = Target(DeviceSpec.parse(named), os.environ.get("STI_TEST_PYTHON"))
    else:
        target = Target(request.getfixturevalue("phone").spec, AGENT_PYTHON)
    target.shell(f"rm -rf {shlex.quote(ROOT)}")
    yield target
    target.shell(f"rm -rf {shlex.quote(ROOT)}")


@pytest.fixture
def target(bare: Target) -> Target:
    """A device that has a Python; one that has none is skipped."""
    line = AdbLine(bare.spec)
    found = find_python(line, candidates(f"{ROOT}/venv", bare.python[1] if bare.python else None))
    line.close()
    if found is None or not found.fit:
        pytest.skip(f"{bare.spec} has no Python that can run the agent; name one with STI_TEST_PYTHON")
    return bare


def test_push_list_remove_and_doctor_need_no_python(sti: Sti, bare: Target, small_store: Path) -> None:
    assert sti("push", small_store, *bare.device, "--name", "film").code == 0
    assert "film" in sti("push", "--list", *bare.device).out
    found = sti("doctor", *bare.device, "--python", "no-such-python", "--memory-mb", 0, "--space-mb", 0, "--json")
    levels = {check["name"]: check["level"] for check in found.json["checks"] if check["where"] != "host"}
    assert (found.code, levels["connection"], levels["folder"], levels["python"]) == (1, "ok", "ok", "problem")
    refused = sti("agent", "start", *bare.device, "--python", "no-such-python")
    assert (refused.code, "has no Python" in refused.err) == (1, True)
    assert sti("push", "--remove", "film", *bare.device).code == 0
    assert "film" not in sti("push", "--list", *bare.device).out


def test_package_push_start_infer_stop(sti: Sti, target: Target, store: Path) -> None:
    with Engine(store) as engine:
        expected = {bits: engine.answer(list(TEXTS), engine.uniform_plan(bits)).outputs for bits in BITS}
    assert sti("push", store, *target.device).code == 0
    assert sti("agent", "status", *target.device).code == 1
    started = sti("agent", "start", *target.device, *target.python, "--", "--memory-mb", 200)
    assert started.code == 0, started.err
    try:
        status = sti("agent", "status", *target.device, "--json").json
        assert (status["status"], status["budget_bytes"]) == ("ok", 200 << 20)
        for bits in BITS:
            answer = sti("infer", *TEXTS, *target.device, "--bits", bits, "--json").json
            found = np.array([item["embedding"] for item in answer["data"]], np.float32)  # (texts, features)
            assert np.abs(found - expected[bits]).max() < (1e-5 if bits == 32 else 0.02)
        assert "POST /v1/embeddings" in sti("agent", "logs", *target.device).out
        assert sti("agent", "start", *target.device, *target.python).code == 1  # it runs already
    finally:
        assert sti("agent", "stop", *target.device).out == "stopped\n"
    assert sti("agent", "status", *target.device).code == 1
    assert sti("agent", "stop", *target.device).out == "no agent was running\n"


def test_infer_in_one_command(sti: Sti, target: Target, small_store: Path) -> None:
    assert sti("push", small_store, *target.device).code == 0
    answer = sti("infer", TEXTS[0], *target.device, *target.python, "--bits", 4, "--json").json
    assert answer["sti"]["bits"] == [4]
    assert sti("agent", "status", *target.device).code == 1


def test_an_agent_outlives_connection_and_program(sti: Sti, target: Target, small_store: Path) -> None:
    assert sti("push", small_store, *target.device).code == 0
    code = (
        "import os, signal, sys; from host.cli import app\n"
        "try: app(standalone_mode=False)\n"
        "finally: sys.stdout.flush(); os.killpg(0, signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, "agent", "start", *target.device, *target.python]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, start_new_session=True, check=False)
    assert done.returncode == -signal.SIGKILL
    try:
        assert sti("agent", "status", *target.device, "--json").json["status"] == "ok"
        with forwarded(target) as url, AgentClient(url) as client:
            assert len(client.embed([TEXTS[0]]).data[0].embedding) == 32
    finally:
        assert sti("agent", "stop", *target.device).out == "stopped\n"


class forwarded:
    """`sti forward` in a process of its own; interrupted at the end."""

    def __init__(self, target: Target) -> None:
        command = [sys.executable, "-m", "host.cli", "forward", *target.device]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)

    def __enter__(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.send_signal(signal.SIGINT)


def test_an_agent_that_was_killed_is_replaced(sti: Sti, target: Target, small_store: Path) -> None:
    assert sti("push", small_store, *target.device).code == 0
    assert sti("agent", "start", *target.device, *target.python).code == 0
    target.shell(
        f"cd {shlex.quote(ROOT)} && kill -9 $(cat agent.pid) && while kill -0 $(cat agent.pid); do sleep 0.1; done"
    )
    assert sti("agent", "status", *target.device).code == 1
    assert sti("agent", "start", *target.device, *target.python).code == 0
    assert sti("agent", "stop", *target.device).out == "stopped\n"
