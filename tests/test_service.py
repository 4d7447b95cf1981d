"""The HTTP interface, over real sockets, on a model that is faked where a test needs faults or patience."""

import base64
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.goal import Goal
from device_agent.head import softmax
from device_agent.plan import plan_to_json, uniform_plan
from device_agent.plan_choice import PlanChoice
from device_agent.service import create_app
from shard_store.errors import (
    BudgetError,
    ChecksumError,
    ExecutorError,
    FormatError,
    PlanError,
    RequestError,
    StiError,
)
from shard_store.head import HeadKind, Scores
from shard_store.manifest import Manifest
from tests.fake_model import FakeModel, with_head
from tests.http_server import eventually, serving, serving_loaded
from tests.stores import write_store

LABELS = ("bad", "good", "schön")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_store(tmp_path_factory.mktemp("store") / "small", bitwidths=(2, 8))


@pytest.fixture(scope="module")
def embedding_server(manifest: Manifest) -> Iterator[tuple[FakeModel, httpx.Client]]:
    model = FakeModel(with_head(manifest, HeadKind.EMBEDDING))
    with serving_loaded(model) as client:
        yield model, client


@pytest.fixture(scope="module")
def classifying_server(manifest: Manifest) -> Iterator[tuple[FakeModel, httpx.Client]]:
    model = FakeModel(with_head(manifest, HeadKind.SEQUENCE_CLASSIFICATION, LABELS))
    with serving_loaded(model) as client:
        yield model, client


@pytest.fixture
def embedder(embedding_server: tuple[FakeModel, httpx.Client]) -> FakeModel:
    embedding_server[0].reset()
    return embedding_server[0]


@pytest.fixture
def classifier(classifying_server: tuple[FakeModel, httpx.Client]) -> FakeModel:
    classifying_server[0].reset()
    return classifying_server[0]


@pytest.fixture
def embedding_client(embedder: FakeModel, embedding_server: tuple[FakeModel, httpx.Client]) -> httpx.Client:
    return embedding_server[1]


@pytest.fixture
def classifying_client(classifier: FakeModel, classifying_server: tuple[FakeModel, httpx.Client]) -> httpx.Client:
    return classifying_server[1]


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    return dict(body["error"])


# --- health and loading


def test_health_says_loading_until_the_model_is_there(embedder: FakeModel) -> None:
    may_load = Event()

    def load() -> FakeModel:
        may_load.wait()
        return embedder

    with serving(create_app(load)) as client:
        try:
            loading = client.get("/health")
            assert (loading.status_code, loading.json()["status"]) == (503, "loading")
            assert int(loading.headers["Retry-After"]) >= 1
            refused = client.post("/v1/embeddings", json={"input": "a"})
            assert (refused.status_code, error_of(refused)["code"]) == (503, "loading")
            assert int(refused.headers["Retry-After"]) >= 1
            assert client.get("/v1/models").status_code == 503
        finally:
            may_load.set()
        eventually(lambda: client.get("/health").status_code == 200)
    assert embedder.closed.is_set()


def test_health_tells_the_memory_of_a_loaded_model(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    embedder.ledger.add(77)
    health = embedding_client.get("/health").json()
    assert health["status"] == "ok"
    assert health["model"] == "tests/small"
    assert (health["budget_bytes"], health["model_held_bytes"], health["waiting"]) == (1000, 77, 0)
    assert health["process_peak_bytes"] >= health["process_resident_bytes"] > 1 << 20


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (BudgetError("memory budget 1.0 MiB is too small"), "memory budget 1.0 MiB is too small"),
        (ZeroDivisionError("secret detail"), "the model could not be loaded: ZeroDivisionError; see the agent's log"),
    ],
)
def test_a_failed_load_is_told_in_one_line(failure: Exception, reason: str) -> None:
    def load() -> FakeModel:
        raise failure

    with serving(create_app(load)) as client:
        eventually(lambda: client.get("/health").status_code != 503)
        health = client.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["reason"]) == (500, "failed", reason)
        refused = client.post("/v1/embeddings", json={"input": "a"})
        assert refused.status_code == 500
        assert error_of(refused)["message"] == reason


def test_a_default_plan_that_the_store_cannot_run_fails_the_load(embedder: FakeModel) -> None:
    with serving(create_app(lambda: embedder, PlanChoice(bits=3))) as client:
        eventually(lambda: client.get("/health").status_code != 503)
        assert client.get("/health").json()["reason"].startswith("plan: the store has no 3-bit shards")
    assert embedder.closed.is_set()


def test_health_answers_while_a_run_is_under_way(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    embedder.hold = True
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(embedding_client.post, "/v1/embeddings", json={"input": "a"})
        try:
            assert embedder.begun.wait(20)
            health = embedding_client.get("/health")
            assert (health.status_code, health.json()["waiting"]) == (200, 1)
        finally:
            embedder.release.set()
        assert running.result().status_code == 200


def test_models_lists_what_can_be_asked_of_the_model(classifying_client: httpx.Client) -> None:
    body = classifying_client.get("/v1/models").json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("tests/small", "model", "sti")
    assert model["geometry"] == {"layers": 2, "hidden": 128, "heads": 4, "ffn": 160, "slices": 4}
    assert (model["bits"], model["sequences"], model["max_tokens"]) == ([2, 8], [16, 32], 32)
    assert (model["head"], model["labels"]) == ("sequence_classification", list(LABELS))


# --- embeddings


def test_embeddings_have_openais_shape(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    request = {"input": ["one", "two words"], "model": "tests/small", "user": "u", "dimensions": 24}
    body = embedding_client.post("/v1/embeddings", json=request).json()
    assert set(body) == {"object", "data", "model", "usage", "sti"}
    assert (body["object"], body["model"]) == ("list", "tests/small")
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    for index, item in enumerate(body["data"]):
        assert (item["object"], item["index"]) == ("embedding", index)
        assert np.array_equal(np.float32(item["embedding"]), embedder.output(index + 1))


def test_one_text_is_one_embedding(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    body = embedding_client.post("/v1/embeddings", json={"input": "alone"}).json()
    assert len(body["data"]) == 1
    assert embedder.calls[0].inputs == ("alone",)


def test_base64_holds_little_endian_floats(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    body = embedding_client.post("/v1/embeddings", json={"input": "a b", "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), "<f4")
    assert np.array_equal(decoded, embedder.output(2))


def test_every_answer_reports_its_run(embedding_client: httpx.Client) -> None:
    assert embedding_client.post("/v1/embeddings", json={"input": "a b"}).json()["sti"] == {
        "layers": 2, "slices": 4, "bits": [8], "resident_layers": 1, "executor": "constant",
        "passes": 1, "sequences": [16], "tokens": 2,
        "read_ms": 1.0, "prepare_ms": 2.0, "execute_ms": 3.0, "wait_ms": 4.0, "total_ms": 5.0, "answer_ms": 6.0,
        "budget_bytes": 1000, "model_peak_bytes": 900, "process_peak_bytes": 5000,
    }  # fmt: skip


# --- classification


def test_sequence_classification_gives_all_scores(classifier: FakeModel, classifying_client: httpx.Client) -> None:
    body = classifying_client.post("/v1/classify", json={"input": ["one", "two words"]}).json()
    for index, item in enumerate(body["data"]):
        expected = softmax(classifier.output(index + 1))
        assert (item["object"], item["index"]) == ("classification", index)
        assert [score["label"] for score in item["scores"]] == list(LABELS)
        assert np.allclose([score["score"] for score in item["scores"]], expected)
        assert (item["label"], item["score"]) == (LABELS[expected.argmax()], pytest.approx(expected.max()))


def test_pairs_reach_the_model_as_pairs(classifier: FakeModel, classifying_client: httpx.Client) -> None:
    response = classifying_client.post("/v1/classify", json={"input": [["a", "b"], ["c", "d"]], "truncate": True})
    assert response.status_code == 200
    assert classifier.calls[0].inputs == (("a", "b"), ("c", "d"))
    assert classifier.calls[0].truncate


def test_the_score_of_a_regression_is_its_output(manifest: Manifest) -> None:
    model = FakeModel(with_head(manifest, HeadKind.SEQUENCE_CLASSIFICATION, ("similarity",), Scores.NONE))
    with serving_loaded(model) as client:
        item = client.post("/v1/classify", json={"input": "a"}).json()["data"][0]
    assert (item["label"], item["score"]) == ("similarity", float(model.output(1)[0]))


def test_several_labels_may_hold_at_once(manifest: Manifest) -> None:
    model = FakeModel(with_head(manifest, HeadKind.SEQUENCE_CLASSIFICATION, ("a", "b", "c"), Scores.SIGMOID))
    with serving_loaded(model) as client:
        item = client.post("/v1/classify", json={"input": "a"}).json()["data"][0]
    found = [score["score"] for score in item["scores"]]
    assert found == pytest.approx((1 / (1 + np.exp(-model.output(1)))).tolist())
    assert item["score"] == max(found)


def test_token_classification_labels_every_token(manifest: Manifest) -> None:
    model = FakeModel(with_head(manifest, HeadKind.TOKEN_CLASSIFICATION, LABELS))
    with serving_loaded(model) as client:
        item = client.post("/v1/classify", json={"input": "two words"}).json()["data"][0]
    expected = softmax(model.output(2))
    assert item["object"] == "token_classification"
    assert [(token["token"], token["start"], token["end"]) for token in item["tokens"]] == [
        ("two", 0, 3),
        ("words", 4, 9),
    ]
    assert [token["label"] for token in item["tokens"]] == [LABELS[row.argmax()] for row in expected]
    assert np.allclose([token["score"] for token in item["tokens"]], expected.max(axis=-1))


def test_each_head_has_its_route(embedding_client: httpx.Client, classifying_client: httpx.Client) -> None:
    for client, route, other in (
        (embedding_client, "/v1/classify", "/v1/embeddings"),
        (classifying_client, "/v1/embeddings", "/v1/classify"),
    ):
        refused = client.post(route, json={"input": "a"})
        assert refused.status_code == 400
        assert other in error_of(refused)["message"]


# --- plans


def test_numbers_choose_a_uniform_plan(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    request = {"input": "a", "bits": 2, "layers": 1, "slices": 3}
    assert embedding_client.post("/v1/embeddings", json=request).status_code == 200
    assert embedder.calls[0].plan == uniform_plan(embedder.manifest, 2, 1, 3)


def test_a_plan_is_run_as_it_is(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    plan = uniform_plan(embedder.manifest, 2, 2, 1, loading_agents=2)
    request = {"input": "a", "plan": json.loads(plan_to_json(plan))}
    assert embedding_client.post("/v1/embeddings", json=request).status_code == 200
    assert embedder.calls[0].plan == plan


def test_requests_change_the_default_plan_number_by_number(embedder: FakeModel) -> None:
    with serving_loaded(embedder, default=PlanChoice(bits=2, slices=3)) as client:
        for extra in ({}, {"layers": 1}, {"bits": 8}):
            assert client.post("/v1/embeddings", json={"input": "a", **extra}).status_code == 200
    assert [call.plan for call in embedder.calls] == [
        uniform_plan(embedder.manifest, 2, 2, 3),
        uniform_plan(embedder.manifest, 2, 1, 3),
        uniform_plan(embedder.manifest, 8, 2, 3),
    ]


# --- refusals


@pytest.mark.parametrize(
    ("request_body", "param", "message"),
    [
        ({}, "input", "input: field required"),
        ({"input": "a", "size": 1}, "size", "size: extra inputs are not permitted"),
        ({"input": 3}, "input", "input: must be a text or a list of texts"),
        ({"input": [1, 2]}, "input", "input.0: input should be a valid string"),
        ({"input": []}, "input", "input: list should have at least 1 item after validation, not 0"),
        ({"input": ["a", ""]}, "input", "input.1: string should have at least 1 character"),
        ({"input": ["a"] * 2049}, "input", "input: list should have at most 2048 items after validation, not 2049"),
        ({"input": "a", "bits": "8"}, "bits", "bits: input should be a valid integer"),
        ({"input": "a", "layers": True}, "layers", "layers: input should be a valid integer"),
        ({"input": "a", "truncate": 1}, "truncate", "truncate: input should be a valid boolean"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "encoding_format: input should be 'float' or"),
        ({"input": "a", "plan": []}, "plan", "plan: input should be a valid dictionary"),
        ({"input": "a", "dimensions": 7}, None, "dimensions: 7 asked, tests/small has 24; leave the field out"),
        ({"input": "a", "plan": {"version": 9}}, None, "plan: version 9, this agent knows 1"),
        ({"input": "a", "bits": 3}, None, "plan: the store has no 3-bit shards"),
        ({"input": "a", "layers": 3}, None, "plan: 3 layers asked, the store has 1 to 2"),
        ({"input": "a", "slices": 0}, None, "plan: 0 slices asked, the store has 1 to 4"),
    ],
)  # fmt: skip
def test_wrong_requests_are_refused_in_one_line(
    embedding_client: httpx.Client, request_body: dict[str, Any], param: str | None, message: str
) -> None:
    response = embedding_client.post("/v1/embeddings", json=request_body)
    error = error_of(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert error["message"].startswith(message)


def test_a_plan_excludes_the_numbers(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    plan = json.loads(plan_to_json(uniform_plan(embedder.manifest, 2)))
    response = embedding_client.post("/v1/embeddings", json={"input": "a", "plan": plan, "bits": 2})
    assert response.status_code == 400
    assert "either a plan or" in error_of(response)["message"]


def test_pairs_are_refused_unless_they_are_pairs(classifying_client: httpx.Client) -> None:
    for pairs in ([["a"]], [["a", "b", "c"]], [["a", "b"], "c"], [["a", ""]]):
        assert error_of(classifying_client.post("/v1/classify", json={"input": pairs}))["param"] == "input"


def test_another_model_is_not_found(embedding_client: httpx.Client) -> None:
    response = embedding_client.post("/v1/embeddings", json={"input": "a", "model": "gpt"})
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("content", "content_type", "message"),
    [
        (b"{", "application/json", "the body is not valid JSON"),
        (b"\xff{}", "application/json", "There was an error parsing the body"),
        (b"[" * 200_000, "application/json", "There was an error parsing the body"),
        (b'"a"', "application/json", "the body must be a JSON object"),
        (b'{"input": "a"}', "text/plain", "the body must be a JSON object"),
        (b"", "application/json", "the body must be a JSON object"),
        (b'{"input": "\\ud800"}', "application/json", "input: input should be a valid string"),
    ],
)
def test_what_is_no_json_object_is_refused(
    embedding_client: httpx.Client, content: bytes, content_type: str, message: str
) -> None:
    response = embedding_client.post("/v1/embeddings", content=content, headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert error_of(response)["message"].startswith(message)


def test_unknown_routes_and_methods_have_the_same_shape(embedding_client: httpx.Client) -> None:
    for response, status, code in (
        (embedding_client.get("/v2"), 404, "not_found"),
        (embedding_client.get("/docs"), 404, "not_found"),
        (embedding_client.get("/v1/embeddings"), 405, "method_not_allowed"),
    ):
        assert (response.status_code, error_of(response)["code"]) == (status, code)
        assert error_of(response)["type"] == "invalid_request_error"


def test_large_bodies_are_refused_with_and_without_a_declared_length(embedder: FakeModel) -> None:
    with serving_loaded(embedder, body_bytes=1000) as client:
        body = json.dumps({"input": "a" * 1000}).encode()
        headers = {"Content-Type": "application/json"}
        for content in (body, iter([body[:500], body[500:]])):
            response = client.post("/v1/embeddings", content=content, headers=headers)
            assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
            assert "1000 bytes" in error_of(response)["message"]
        assert client.post("/v1/embeddings", json={"input": "a" * 900}).status_code == 200
    assert len(embedder.calls) == 1


@pytest.mark.parametrize(
    ("failure", "status", "kind", "code"),
    [
        (RequestError("too long"), 400, "invalid_request_error", "invalid_request"),
        (PlanError("no such layer"), 400, "invalid_request_error", "invalid_plan"),
        (BudgetError("too small"), 400, "invalid_request_error", "budget_too_small"),
        (FormatError("bad file"), 500, "store_error", "format"),
        (ChecksumError("bad bytes"), 500, "store_error", "checksum"),
        (ExecutorError("no runtime"), 500, "agent_error", "runtime"),
    ],
)
def test_errors_of_a_run_are_told_and_the_agent_stays_up(
    embedder: FakeModel, embedding_client: httpx.Client, failure: StiError, status: int, kind: str, code: str
) -> None:
    embedder.failure = failure
    response = embedding_client.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == status
    assert error_of(response) == {"message": str(failure), "type": kind, "param": None, "code": code}
    embedder.failure = None
    assert embedding_client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_an_unexpected_error_tells_the_client_nothing_of_the_inside(
    embedder: FakeModel, embedding_client: httpx.Client
) -> None:
    embedder.failure = ZeroDivisionError("secret detail")
    response = embedding_client.post("/v1/embeddings", json={"input": "a"})
    assert (response.status_code, error_of(response)["code"]) == (500, "internal")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    embedder.failure = None
    assert embedding_client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


@pytest.fixture(scope="module")
def fuzzed_client(manifest: Manifest) -> Iterator[httpx.Client]:
    with serving_loaded(FakeModel(with_head(manifest, HeadKind.EMBEDDING))) as client:
        yield client


FIELDS = ("input", "model", "encoding_format", "dimensions", "user", "bits", "layers", "slices", "plan", "truncate")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from([8, "base64"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), VALUES, max_size=5), st.booleans())
def test_any_json_is_answered_or_refused(fuzzed_client: httpx.Client, body: dict[str, Any], with_input: bool) -> None:
    content = json.dumps(body | {"input": "a"} if with_input else body)
    response = fuzzed_client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    if response.status_code != 200:
        assert response.status_code in {400, 404}
        assert error_of(response)["message"]


# --- clients that go away, and too many of them


def send_and_hang_up(client: httpx.Client, after: Event | None = None) -> None:
    """Send a request over a socket of its own and close it without reading, once `after` has happened."""
    body = json.dumps({"input": "a"})
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as connection:
        head = (
            f"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        if after:
            assert after.wait(20)


def test_a_client_that_goes_away_stops_its_run(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    embedder.hold = True
    send_and_hang_up(embedding_client, after=embedder.begun)
    assert embedder.cancelled.wait(20)
    embedder.hold = False
    assert embedding_client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def waiting(client: httpx.Client) -> int:
    return int(client.get("/health").json()["waiting"])


def test_a_client_that_goes_away_loses_its_turn(embedder: FakeModel, embedding_client: httpx.Client) -> None:
    embedder.hold = True
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(embedding_client.post, "/v1/embeddings", json={"input": "first"})
        try:
            assert embedder.begun.wait(20)
            queued = Event()
            second = ThreadPoolExecutor(1)
            gone = second.submit(send_and_hang_up, embedding_client, queued)
            eventually(lambda: waiting(embedding_client) == 2)
            queued.set()
            gone.result()
            second.shutdown()
            eventually(lambda: waiting(embedding_client) == 1)
        finally:
            embedder.release.set()
        assert first.result().status_code == 200
    assert embedding_client.post("/v1/embeddings", json={"input": "third"}).status_code == 200
    assert [call.inputs for call in embedder.calls] == [("first",), ("third",)]


def test_too_many_waiting_requests_are_turned_away(embedder: FakeModel) -> None:
    embedder.hold = True
    with serving_loaded(embedder, max_waiting=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/embeddings", json={"input": "a"})
        try:
            assert embedder.begun.wait(20)
            refused = client.post("/v1/embeddings", json={"input": "b"})
            assert (refused.status_code, error_of(refused)["code"]) == (429, "busy")
            assert int(refused.headers["Retry-After"]) >= 1
        finally:
            embedder.release.set()
        assert first.result().status_code == 200


def test_stopping_the_server_stops_a_run(embedder: FakeModel) -> None:
    embedder.hold = True
    with ThreadPoolExecutor(1) as pool:
        with serving_loaded(embedder) as client:
            abandoned = pool.submit(
                httpx.post, client.base_url.join("/v1/embeddings"), json={"input": "a"}, trust_env=False
            )
            assert embedder.begun.wait(20)
        assert embedder.cancelled.is_set()
        assert embedder.closed.is_set()
        assert isinstance(abandoned.exception(), httpx.HTTPError) or abandoned.result().status_code == 500


def test_the_documentation_names_every_route_and_field(embedding_client: httpx.Client) -> None:
    page = (Path(__file__).parents[1] / "docs" / "http.md").read_text("utf-8")
    schema = embedding_client.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/health", "/v1/models", "/v1/budget", "/v1/embeddings", "/v1/classify", "/v1/images/classify",
        "/v1/completions", "/v1/chat/completions",
    }  # fmt: skip
    kinds = (
        "EmbeddingRequest", "ClassifyRequest", "ImageClassifyRequest", "CompletionRequest", "ChatRequest",
        "GenerationSummary", "RunSummary", "Health", "ModelCard", "Sizes", "ErrorBody",
    )  # fmt: skip
    named = {field for kind in kinds for field in schema["components"]["schemas"][kind]["properties"]}
    openais = {"object", "id", "created", "owned_by"}
    for text in (*schema["paths"], *named - openais):
        assert text in page, text


def test_a_target_reaches_the_model(embedding_client: httpx.Client, embedder: FakeModel) -> None:
    body = {"input": "a", "target_ms": 40, "memory_mb": 2.5, "show_plan": True}
    summary = embedding_client.post("/v1/embeddings", json=body).json()["sti"]
    assert embedder.calls[-1].goal == Goal(40.0, int(2.5 * (1 << 20)))
    assert (summary["target_ms"], summary["predicted_ms"], summary["measured_ms"]) == (40, 30, 35)
    assert (summary["met"], summary["reason"], len(summary["plans"])) == (True, "for a test", 1)
    assert embedding_client.post("/v1/embeddings", json={"input": "a", "plan": summary["plans"][0]}).status_code == 200
    plain = embedding_client.post("/v1/embeddings", json={"input": "a"}).json()["sti"]
    assert not {"target_ms", "met", "plans"} & set(plain)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_ms": 0}, "target_ms"),
        ({"target_ms": -1}, "target_ms"),
        ({"target_ms": "soon"}, "target_ms"),
        ({"memory_mb": 0}, "memory_mb"),
        ({"target_ms": 10, "bits": 8}, "give no plan, bits, layers or slices with it"),
    ],
)
def test_impossible_goals_are_refused(embedding_client: httpx.Client, fields: dict[str, object], message: str) -> None:
    answer = embedding_client.post("/v1/embeddings", json={"input": "a", **fields})
    assert answer.status_code == 400
    assert message in answer.text


def test_the_budget_can_be_changed(embedding_client: httpx.Client, embedder: FakeModel) -> None:
    try:
        answer = embedding_client.put("/v1/budget", json={"memory_mb": 0.5})
        assert (answer.status_code, answer.json()) == (200, {"memory_mb": 0.5})
        assert embedding_client.get("/health").json()["budget_bytes"] == 1 << 19
        refused = embedding_client.put("/v1/budget", json={"memory_mb": 1e-5})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "budget_too_small")
        assert embedder.budget_bytes == 1 << 19
        assert embedding_client.put("/v1/budget", json={"memory_mb": 0}).status_code == 400
        assert embedding_client.put("/v1/budget", json={"memory": 5}).status_code == 400
    finally:
        embedder.budget_bytes = 1000


def test_layers_settle_when_nothing_waits(embedding_client: httpx.Client, embedder: FakeModel) -> None:
    embedder.settled.clear()
    assert embedding_client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert embedder.settled.wait(20)
