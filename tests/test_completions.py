"""Generated text over HTTP, on a real server and a real, tiny model."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from device_agent.completion import GenerateOptions
from device_agent.engine import Engine
from tests.cli_runs import Sti
from tests.decoders import LLAMA, write_decoder
from tests.http_server import eventually, serving_loaded
from tests.packaging import package_quietly

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("completions")
    model = write_decoder(folder / "model", LLAMA | {"eos_token_id": None})
    return package_quietly(model, folder / "tiny", sequences=(8,), bitwidths=(8,), slices=1)


@pytest.fixture(scope="module")
def client(store: Path) -> Iterator[httpx.Client]:
    with serving_loaded(Engine(store)) as client:
        yield client


@pytest.fixture(scope="module")
def expected(store: Path) -> str:
    """What the engine writes behind "w5 w6"."""
    with Engine(store) as engine:
        return engine.generate("w5 w6", GenerateOptions(8)).text


def ask(client: httpx.Client, path: str = "/v1/completions", **body: object) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def events(client: httpx.Client, path: str = "/v1/completions", **body: object) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def error_of(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


def test_a_completion_has_openai_s_shape(client: httpx.Client, expected: str) -> None:
    answer = ask(client, prompt="w5 w6", **GREEDY)
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10}
    assert (answer["sti"]["steps"] + answer["sti"]["accepted"], answer["sti"]["bits"]) == (8, [8])
    assert 0 < answer["sti"]["model_peak_bytes"] <= answer["sti"]["budget_bytes"]


def test_a_stream_holds_the_same_text(client: httpx.Client, expected: str) -> None:
    pieces = events(client, prompt="w5 w6", stream_options={"include_usage": True}, **GREEDY)
    *texts, usage = pieces
    assert "".join(piece["choices"][0]["text"] for piece in texts) == expected
    assert [piece["choices"][0]["finish_reason"] for piece in texts][-2:] == [None, "length"]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 8)
    assert len({piece["id"] for piece in pieces}) == 1


def test_a_stream_has_an_event_for_every_token_also_where_steps_give_several(client: httpx.Client) -> None:
    *texts, usage = events(
        client, prompt="w5 w6 w5 w6 w5", stream_options={"include_usage": True}, temperature=0, max_tokens=40
    )  # fmt: skip
    assert usage["sti"]["accepted"] > 0
    assert usage["sti"]["steps"] + usage["sti"]["accepted"] == 40
    words = [piece["choices"][0]["text"].split() for piece in texts]
    assert [len(told) for told in words] == [1] * 40 + [0]


def test_a_chat_runs_through_the_model_s_template(client: httpx.Client, store: Path) -> None:
    messages = [{"role": "system", "content": "w2"}, {"role": "user", "content": "w3 w4"}]
    with Engine(store) as engine:
        prompt = engine.texts.prompts.encode("system w2 user w3 w4 w1")
        direct = engine.generate("system w2 user w3 w4 w1", GenerateOptions(8)).text
    answer = ask(client, "/v1/chat/completions", messages=messages, **GREEDY)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": direct}
    assert answer["usage"]["prompt_tokens"] == len(prompt)
    pieces = events(client, "/v1/chat/completions", messages=messages, **GREEDY)
    assert pieces[0]["object"] == "chat.completion.chunk"
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == direct


def test_a_chat_may_take_what_room_there_is(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "w3"}]
    answer = ask(client, "/v1/chat/completions", messages=messages, temperature=0)
    assert answer["usage"]["total_tokens"] == 64
    limited = ask(client, "/v1/chat/completions", messages=messages, temperature=0, max_completion_tokens=3)
    assert limited["usage"]["completion_tokens"] == 3


def test_stop_strings_and_seeds(client: httpx.Client, expected: str) -> None:
    word = expected.split()[2]
    answer = ask(client, prompt="w5 w6", stop=word, **GREEDY)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert word not in answer["choices"][0]["text"]
    one, same, other = (
        ask(client, prompt="w5", max_tokens=8, temperature=1.5, seed=seed, top_k=90, top_p=0.99) for seed in (1, 1, 2)
    )
    assert one["choices"] == same["choices"] != other["choices"]


def test_many_at_a_time_get_what_each_gets_alone(client: httpx.Client) -> None:
    prompts = [f"w{number} w{number + 1}" for number in range(2, 14)]
    alone = [ask(client, prompt=prompt, **GREEDY)["choices"][0]["text"] for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        together = list(pool.map(lambda prompt: ask(client, prompt=prompt, **GREEDY)["choices"][0]["text"], prompts))
    assert together == alone


def test_a_client_that_hangs_up_frees_its_place(client: httpx.Client) -> None:
    ask(client, prompt="w2", **GREEDY)
    held = client.get("/health").json()["model_held_bytes"]
    body = {"prompt": "w2", "max_tokens": 60, "temperature": 0, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    eventually(lambda: client.get("/health").json()["waiting"] == 0)
    eventually(lambda: client.get("/health").json()["model_held_bytes"] == held)
    ask(client, prompt="w2", **GREEDY)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompt: field required"),
        ({"prompt": ""}, "prompt: string should have at least 1 character"),
        ({"prompt": "w2", "max_tokens": 100}, "101 tokens of prompt and answer, the model has room for 64"),
        ({"prompt": "w2", "max_tokens": 100, "stream": True}, "101 tokens of prompt and answer"),
        ({"prompt": "w2", "temperature": 3}, "temperature is 3, must be 0 to 2"),
        ({"prompt": "w2", "top_p": 0}, "top_p is 0"),
        ({"prompt": "w2", "logprobs": 2}, "logprobs: extra inputs are not permitted"),
        ({"prompt": "w2", "n": 2}, "n: input should be 1"),
        ({"prompt": "w2", "stop": ["a"] * 5}, "stop"),
        ({"prompt": "w2", "bits": 4}, "no 4-bit shards"),
        ({"prompt": "w2", "layers": 9}, "9 layers asked"),
    ],
)
def test_what_cannot_be_is_refused(client: httpx.Client, body: dict[str, object], message: str) -> None:
    assert message in error_of(client.post("/v1/completions", json=body))


def test_other_tasks_and_models_are_refused(client: httpx.Client) -> None:
    assert "ask /v1/completions" in error_of(client.post("/v1/classify", json={"input": "w2"}))
    assert "ask /v1/completions" in error_of(client.post("/v1/embeddings", json={"input": "w2"}))
    assert "ask /v1/completions" in error_of(client.post("/v1/images/classify", json={"input": "aaaa"}))
    unknown = client.post("/v1/completions", json={"prompt": "w2", "model": "other"})
    assert "model 'other' is not loaded" in error_of(unknown, 404)
    wrong = client.post("/v1/chat/completions", json={"messages": [{"role": "tool", "content": "w2"}]})
    assert "messages.0.role" in error_of(wrong)


def test_the_budget_changes_between_texts(client: httpx.Client, expected: str) -> None:
    before = client.get("/health").json()
    assert client.put("/v1/budget", json={"memory_mb": 12}).status_code == 200
    health = client.get("/health").json()
    assert health["model_held_bytes"] <= health["budget_bytes"] == 12 << 20
    assert ask(client, prompt="w5 w6", **GREEDY)["choices"][0]["text"] == expected
    client.put("/v1/budget", json={"memory_mb": before["budget_bytes"] / (1 << 20)})


def test_the_command_line_streams_texts(client: httpx.Client, expected: str, sti: Sti) -> None:
    asked = ("infer", "w5 w6", "--url", client.base_url, "--max-tokens", 8, "--temperature", 0)
    shown = sti(*asked)
    assert shown.code == 0
    assert shown.out.startswith(expected + "\n")
    assert "tokens/s" in shown.out
    (text,) = sti(*asked, "--json").json["data"]
    assert (text["text"], text["finish_reason"], text["usage"]["completion_tokens"]) == (expected, "length", 8)
    stopped = sti(*asked, "--stop", expected.split()[2], "--json").json["data"][0]
    assert stopped["finish_reason"] == "stop"
    chat = sti("infer", "w3", "--chat", "--seed", 1, "--max-tokens", 4, "--url", client.base_url, "--json").json
    assert chat["data"][0]["usage"]["completion_tokens"] == 4
    ignored = sti("infer", "w5", "--url", client.base_url, "--memory-mb", 100)
    assert ignored.code == 1
    assert "leave --pair, --truncate and --memory-mb out" in ignored.err
    unplanned = sti("infer", "w5", "--url", client.base_url, "--target-ms", 100)
    assert unplanned.code == 1
    assert "no importance profile, so nothing can be planned for a target" in unplanned.err
    refused = sti("infer", "w5", "--url", client.base_url, "--max-tokens", 100)
    assert refused.code == 1
    assert "101 tokens of prompt and answer, the model has room for 64" in refused.err
