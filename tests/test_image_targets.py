"""Latency targets for images: calibrated, planned, asked for over HTTP and from the command line."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from device_agent.cli import main as agent_main
from device_agent.costs_file import read_costs
from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.memory import MIB
from shard_store.template import TemplateKind
from tests.cli_runs import Sti
from tests.http_server import serving_loaded
from tests.packaging import package_quietly
from tests.profiles import profiled_copy
from tests.vision import HEADS, LAYERS, PATCHES, write_images, write_vision_transformer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profiled store, images and this device's costs."""
    folder = tmp_path_factory.mktemp("image-targets")
    model = write_vision_transformer(folder / "model")
    package_quietly(model, folder / "plain", sequences=(16,), bitwidths=(2, 8))
    profiled_copy(folder / "plain", folder / "store")
    write_images(folder, 2)
    return folder


@pytest.fixture(scope="module")
def costs(folder: Path) -> Path:
    path = folder / "costs.json"
    with Engine(folder / "store", EngineOptions(budget_bytes=32 * MIB, costs_path=path)) as engine:
        assert engine.elastic.costs.pass_ms > 0
    return path


@pytest.fixture(scope="module")
def client(folder: Path, costs: Path) -> Iterator[httpx.Client]:
    options = EngineOptions(budget_bytes=32 * MIB, costs_path=costs)
    with serving_loaded(Engine(folder / "store", options)) as client:
        yield client


def test_the_device_is_calibrated_with_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "calibrated.json"
    arguments = ["sti-agent", "calibrate", "--store", str(folder / "store"), "--costs", str(out)]
    monkeypatch.setattr("sys.argv", arguments)
    agent_main()
    found = read_costs(out)
    assert found.execute[TemplateKind.INT8].keys() == {PATCHES + 1}
    assert 0 < found.pass_ms < 1000


def test_a_plan_is_shown_for_images(folder: Path, costs: Path, sti: Sti) -> None:
    arguments = ("plan", folder / "store", "--device-costs", costs, "--memory-mb", 32, "--target-ms", 1000)
    document = sti(*arguments, "--json").json
    assert (document["sequence"], document["met"]) == (PATCHES + 1, True)
    assert len(document["plan"]["layers"]) == LAYERS


def test_a_target_over_http(folder: Path, client: httpx.Client) -> None:
    image = base64.b64encode((folder / "images" / "1.png").read_bytes()).decode()
    body = {"input": image, "target_ms": 60_000, "memory_mb": 16, "show_plan": True}
    answer = client.post("/v1/images/classify", json=body).json()
    summary = answer["sti"]
    assert (summary["layers"], summary["slices"], summary["met"], summary["target_ms"]) == (LAYERS, HEADS, True, 60_000)
    assert summary["model_peak_bytes"] <= summary["predicted_peak_bytes"] <= summary["budget_bytes"] == 16 * MIB
    assert summary["plans"][0]["layers"][0]["bitwidths"] == [8, 8]
    hasty = client.post("/v1/images/classify", json={"input": image, "target_ms": 0.01}).json()["sti"]
    assert (hasty["layers"], hasty["slices"], hasty["met"]) == (1, 1, False)
    assert "target 0.01 ms cannot be met" in hasty["reason"]


def test_a_target_from_the_command_line(folder: Path, client: httpx.Client, sti: Sti) -> None:
    image = folder / "images" / "0.jpeg"
    answer = sti("infer", image, "--url", client.base_url, "--target-ms", 60_000, "--memory-mb", 16, "--json").json
    assert answer["sti"]["met"] is True
    assert answer["sti"]["predicted_ms"] > 0
