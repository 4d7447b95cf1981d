"""The client, against the service and against what is none."""

import socket
from collections.abc import Iterator
from threading import Event

import numpy as np
import pytest
from fastapi import FastAPI

from device_agent.service import create_app
from host.client import AgentClient, Classification, RunOptions, TokenClassification
from shard_store.errors import ChecksumError, DeviceError, RequestError
from shard_store.head import HeadKind
from shard_store.manifest import Manifest
from tests.fake_model import FakeModel, with_head
from tests.http_server import serving, serving_loaded
from tests.stores import write_store


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_store(tmp_path_factory.mktemp("store") / "small", bitwidths=(2, 8))


@pytest.fixture
def model(manifest: Manifest) -> FakeModel:
    return FakeModel(with_head(manifest, HeadKind.EMBEDDING))


@pytest.fixture
def client(model: FakeModel) -> Iterator[AgentClient]:
    with serving_loaded(model) as http, AgentClient(str(http.base_url)) as client:
        yield client


def test_embeddings_come_back_as_numbers(model: FakeModel, client: AgentClient) -> None:
    answer = client.embed(["one", "two words"], RunOptions(bits=2, truncate=True))
    for tokens, item in enumerate(answer.data, 1):
        assert np.array_equal(np.array(item.embedding, np.float32), model.output(tokens))
    assert (answer.model, answer.sti.bits, answer.sti.wait_ms) == ("tests/small", (2,), 4.0)
    assert model.calls[0].truncate


def test_health_and_model_are_typed(client: AgentClient) -> None:
    assert client.health().status == "ok"
    card = client.model()
    assert (card.id, card.head, card.bits, card.max_tokens) == ("tests/small", "embedding", (2, 8), 32)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (HeadKind.SEQUENCE_CLASSIFICATION, Classification),
        (HeadKind.TOKEN_CLASSIFICATION, TokenClassification),
    ],
)
def test_classifications_keep_their_kind(manifest: Manifest, kind: HeadKind, answer: type) -> None:
    model = FakeModel(with_head(manifest, kind, ("x", "y", "z")))
    with serving_loaded(model) as http, AgentClient(str(http.base_url)) as client:
        result = client.classify([("a", "b"), ("c", "d")])
    assert [type(item) for item in result.data] == [answer, answer]


def test_refused_requests_and_broken_stores_are_told_apart(model: FakeModel, client: AgentClient) -> None:
    with pytest.raises(RequestError, match=r"^plan: 9 slices asked, .*agent at http"):
        client.embed(["a"], RunOptions(slices=9))
    model.failure = ChecksumError("layer 1 is damaged")
    with pytest.raises(DeviceError, match=r"^layer 1 is damaged \(agent at http"):
        client.embed(["a"])


def test_loading_and_failed_agents_still_tell_their_health(model: FakeModel) -> None:
    may_load = Event()

    def load() -> FakeModel:
        may_load.wait()
        return model

    with serving(create_app(load)) as http, AgentClient(str(http.base_url)) as client:
        try:
            assert client.health().status == "loading"
            with pytest.raises(DeviceError, match="still being loaded"):
                client.embed(["a"])
        finally:
            may_load.set()


def test_nobody_there_is_one_line_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with AgentClient(url) as client, pytest.raises(DeviceError, match=f"^no agent answers at {url}; start one with"):
        client.health()


def test_an_agent_that_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = AgentClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=0.1)
        with client, pytest.raises(DeviceError, match="did not answer in time"):
            client.health()


@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1", "127.0.0.1", "http://[::"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with AgentClient(url) as client, pytest.raises(DeviceError, match=r"cannot be asked|no agent answers"):
        client.health()


def test_another_server_is_not_taken_for_an_agent() -> None:
    with serving(FastAPI()) as http, AgentClient(str(http.base_url)) as client:
        for ask in (client.health, client.model):
            with pytest.raises(DeviceError, match="is not an sti agent"):
                ask()


def test_the_environments_proxy_is_not_used(client: AgentClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with AgentClient(client.url) as other:
        assert other.health().status == "ok"
