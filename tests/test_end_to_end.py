"""From a checkpoint to an answer of an agent, with nothing faked."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from device_agent.engine import Engine
from device_agent.engine_options import EngineOptions
from device_agent.goal import NO_GOAL, Goal
from device_agent.head import softmax
from device_agent.pipeline import Cancelled
from device_agent.plan import Plan
from device_agent.report import Answer
from device_agent.text import Text
from shard_store.reader import Store
from tests.cli_runs import Sti
from tests.http_server import eventually, serving_loaded

CHECKOUT = Path(__file__).parents[1]
TEXTS = ["the cat sat on the warm mat .", "a dull film", "the mat"]
StoreOf = Callable[[str], Path]


@pytest.fixture
def sti(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sti:
    monkeypatch.setenv("STI_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(CHECKOUT)
    return Sti(monkeypatch, capsys)


def test_the_service_answers_what_the_engine_answers(golden_store: StoreOf) -> None:
    with Engine(golden_store("bert-embedding")) as engine:
        expected = engine.answer(TEXTS, engine.uniform_plan(4, 1, 2)).outputs
    with serving_loaded(Engine(golden_store("bert-embedding"))) as client:
        request = {"input": TEXTS, "bits": 4, "layers": 1, "slices": 2}
        body = client.post("/v1/embeddings", json=request).json()
    for item, vector in zip(body["data"], expected, strict=True):
        assert np.array_equal(np.array(item["embedding"], np.float32), vector)
    run = body["sti"]
    assert (run["layers"], run["slices"], run["bits"]) == (1, 2, [4])
    assert run["total_ms"] >= run["execute_ms"] > 0
    assert run["budget_bytes"] >= run["model_peak_bytes"] > 0
    assert body["usage"]["prompt_tokens"] == run["tokens"]


def test_pairs_and_tokens_are_classified(golden_store: StoreOf) -> None:
    with Engine(golden_store("bert-sequence")) as engine:
        expected = softmax(engine.answer([("the cat", "a film")]).outputs[0])
    with serving_loaded(Engine(golden_store("bert-sequence"))) as client:
        item = client.post("/v1/classify", json={"input": [["the cat", "a film"]]}).json()["data"][0]
    assert np.allclose([score["score"] for score in item["scores"]], expected, atol=1e-6)
    with serving_loaded(Engine(golden_store("bert-token"))) as client:
        item = client.post("/v1/classify", json={"input": "the cat"}).json()["data"][0]
    assert [(token["token"], token["start"], token["end"]) for token in item["tokens"]] == [
        ("the", 0, 3),
        ("cat", 4, 7),
    ]


def test_bad_requests_leave_the_engine_usable(golden_store: StoreOf) -> None:
    with serving_loaded(Engine(golden_store("bert-embedding"), EngineOptions(budget_bytes=8 << 20))) as client:
        for request, status in (
            ({"input": "cat " * 500}, 400),
            ({"input": "cat " * 500, "truncate": True}, 200),
            ({"input": "cat", "bits": 7}, 400),
            ({"input": "cat", "plan": {"version": 1, "layers": []}}, 400),
            ({"input": "cat"}, 200),
        ):
            response = client.post("/v1/embeddings", json=request)
            assert (request, response.status_code) == (request, status)


def test_a_store_that_is_damaged_under_a_running_agent_is_told(golden_store: StoreOf, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(golden_store("bert-embedding"), store)
    with Store.open(store) as opened:
        span = opened.manifest.shards[8][1][0]
    with serving_loaded(Engine(store)) as client:
        with (store / "shards-8.bin").open("r+b") as file:
            file.seek(span.offset + 20)
            byte = file.read(1)
            file.seek(span.offset + 20)
            file.write(bytes([byte[0] ^ 1]))
        response = client.post("/v1/embeddings", json={"input": "cat", "bits": 8})
        assert (response.status_code, response.json()["error"]["code"]) == (500, "checksum")
        assert client.post("/v1/embeddings", json={"input": "cat", "bits": 4}).status_code == 200


def test_package_push_start_infer_stop(sti: Sti, golden_store: StoreOf) -> None:
    assert sti("push", golden_store("bert-embedding")).code == 0
    url = sti("agent", "start", "--", "--memory-mb", 64, "--bits", 4).out.strip()
    try:
        assert sti("agent", "start").code == 1  # it runs already
        status = sti("agent", "status", "--json").json
        assert (status["status"], status["budget_bytes"]) == ("ok", 64 << 20)
        answer = sti("infer", "the cat", "--json").json
        assert answer["sti"]["bits"] == [4]
        assert len(answer["data"][0]["embedding"]) == 32
        assert sti("infer", "the cat", "--store", "other").code == 1
    finally:
        assert sti("agent", "stop").out == "stopped\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False)


def test_infer_starts_an_agent_for_itself_and_stops_it(sti: Sti, golden_store: StoreOf, tmp_path: Path) -> None:
    assert sti("push", golden_store("bert-sequence"), "--name", "task").code == 0
    answer = sti("infer", "the cat", "--json").json
    assert {"label", "score", "scores"} <= set(answer["data"][0])
    assert sti("agent", "status").code == 1
    announced = json.loads((tmp_path / "home" / "agent.out").read_text())
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{announced['url']}/health", trust_env=False)


def test_a_budget_that_is_too_small_is_refused_with_the_numbers(sti: Sti, golden_store: StoreOf) -> None:
    assert sti("push", golden_store("bert-embedding")).code == 0
    finished = sti("agent", "start", "--", "--memory-mb", "0.5")
    assert finished.code == 1
    assert "memory budget 0.5 MiB is too small: this plan needs" in finished.err
    assert sti("agent", "status").code == 1


class WatchedEngine(Engine):
    """Notes how answers end that are not given."""

    def __init__(self, store: Path, options: EngineOptions) -> None:
        super().__init__(store, options)
        self.ended: list[Exception] = []

    def answer(
        self,
        inputs: Sequence[Text],
        plan: Plan | None = None,
        *,
        goal: Goal = NO_GOAL,
        truncate: bool = False,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Answer:
        try:
            return super().answer(inputs, plan, goal=goal, truncate=truncate, cancelled=cancelled)
        except Exception as error:
            self.ended.append(error)
            raise


def test_a_client_that_hangs_up_stops_a_real_run(golden_store: StoreOf) -> None:
    slow = EngineOptions(throttle_bytes_per_s=30_000, layers_in_flight=1)
    engine = WatchedEngine(golden_store("bert-embedding"), slow)
    with serving_loaded(engine) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/embeddings", json={"input": "cat", "bits": 32}, timeout=0.1)
        eventually(lambda: bool(engine.ended))
        assert isinstance(engine.ended[0], Cancelled)
        assert client.post("/v1/embeddings", json={"input": "cat", "bits": 2}).status_code == 200


def test_the_agents_log_is_shown(sti: Sti, golden_store: StoreOf) -> None:
    assert sti("agent", "logs").code == 1
    assert sti("push", golden_store("bert-embedding")).code == 0
    assert sti("infer", "the cat").code == 0
    log = sti("agent", "logs").out
    assert "POST /v1/embeddings" in log
    assert sti("agent", "logs", "--lines", 1).out == log.splitlines(keepends=True)[-1]
    assert sti("agent", "logs", "--follow").out == log  # no agent runs any more, so nothing follows
