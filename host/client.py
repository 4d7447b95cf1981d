"""Talks to an agent over HTTP."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from shard_store.errors import DeviceError, RequestError, StiError

TIMEOUT_SECONDS = 600.0
CONNECT_SECONDS = 5.0
_END_OF_STREAM = "[DONE]"
T = TypeVar("T")
Text = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to run; None leaves it to the agent."""

    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    truncate: bool = False
    plan: Mapping[str, Any] | None = None  # a plan document, see docs/plan.md
    target_ms: float | None = None  # instead of all the above: the planner chooses
    memory_mb: float | None = None  # cap of this run
    show_plan: bool = False


@dataclass(frozen=True, slots=True)
class Health:
    """State of an agent: "loading", "ok" or "failed"; memory in bytes."""

    status: str
    pid: int
    process_resident_bytes: int
    process_peak_bytes: int
    reason: str | None = None
    model: str | None = None
    budget_bytes: int | None = None
    model_held_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """The model of an agent."""

    id: str
    family: str
    head: str
    labels: tuple[str, ...]
    bits: tuple[int, ...]
    sequences: tuple[int, ...]
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Run:
    """What ran for an answer. `wait_ms` is loading that execution could not hide; `answer_ms` includes tokenising."""

    layers: int
    slices: int
    bits: tuple[int, ...]
    resident_layers: int
    executor: str
    passes: int
    sequences: tuple[int, ...]
    tokens: int
    read_ms: float
    prepare_ms: float
    execute_ms: float
    wait_ms: float
    total_ms: float
    answer_ms: float
    budget_bytes: int
    model_peak_bytes: int
    process_peak_bytes: int
    target_ms: float | None = None  # this and those below: of answers with a target
    predicted_ms: float | None = None
    measured_ms: float | None = None
    met: bool | None = None
    reason: str | None = None
    predicted_loss: float | None = None
    predicted_peak_bytes: int | None = None
    plans: tuple[Mapping[str, Any], ...] | None = None  # of each pass, if asked for


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text's embedding."""

    embedding: tuple[float, ...]  # (features,)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its score."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The best label of one input, and the scores of all."""

    label: str
    score: float
    scores: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True)
class TokenLabel:
    """The best label of one token, and where it stands in the text: characters `start` up to `end`."""

    token: str
    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """The labels of one input's tokens."""

    tokens: tuple[TokenLabel, ...]


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Answer to `embed`, one item per text."""

    data: tuple[Embedding, ...]
    model: str
    sti: Run


@dataclass(frozen=True, slots=True)
class Classifications:
    """Answer to `classify`, one item per input."""

    data: tuple[Classification | TokenClassification, ...]
    model: str
    sti: Run


@dataclass(frozen=True, slots=True)
class _ModelList:
    data: tuple[Model, ...]


@dataclass(frozen=True, slots=True)
class _Budget:
    memory_mb: float


@dataclass(frozen=True, slots=True)
class _Error:
    message: str
    type: str


@dataclass(frozen=True, slots=True)
class _ErrorAnswer:
    error: _Error


class AgentClient:
    """A connection to one agent; close it, or use it as a context manager.

    Every method raises DeviceError if the agent cannot be reached or fails, RequestError if it refuses the request.
    """

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.url = url.rstrip("/")
        timeout = httpx.Timeout(timeout_seconds, connect=min(CONNECT_SECONDS, timeout_seconds))
        # The agent is on this machine or behind a forwarded port: a proxy of the environment does not apply.
        self._http = httpx.Client(timeout=timeout, trust_env=False)

    def __enter__(self) -> "AgentClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection up."""
        self._http.close()

    def health(self) -> Health:
        """The agent's state, also while it loads or after it failed."""
        return _parse(self._send("GET", "/health"), Health, self.url)

    def model(self) -> Model:
        """The model that is loaded."""
        return self._ask("GET", "/v1/models", _ModelList).data[0]

    def set_budget(self, memory_mb: float) -> None:
        """Change the memory budget of the agent's model."""
        self._ask("PUT", "/v1/budget", _Budget, {"memory_mb": memory_mb})

    def embed(self, texts: Sequence[str], options: RunOptions | None = None) -> Embeddings:
        """One embedding per text."""
        return self._ask("POST", "/v1/embeddings", Embeddings, _body(texts, options))

    def classify(self, inputs: Sequence[Text], options: RunOptions | None = None) -> Classifications:
        """The labels of each text, or pair of texts, or of its tokens."""
        return self._ask("POST", "/v1/classify", Classifications, _body(inputs, options))

    def classify_images(self, images: Sequence[bytes], options: RunOptions | None = None) -> Classifications:
        """The labels of each PNG or JPEG file."""
        files = [base64.b64encode(image).decode("ascii") for image in images]
        return self._ask("POST", "/v1/images/classify", Classifications, _body(files, options))

    def events(self, path: str, body: dict[str, object]) -> Iterator[str]:
        """The data of a stream of server-sent events, up to its end mark."""
        with self._reachable(), self._http.stream("POST", self.url + path, json=body) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == _END_OF_STREAM:
                    return
                if data != line:
                    yield data

    def _ask(self, method: str, path: str, kind: type[T], body: dict[str, object] | None = None) -> T:
        response = self._send(method, path, body)
        if response.is_success:
            return _parse(response, kind, self.url)
        raise self._refusal(response)

    def _refusal(self, response: httpx.Response) -> StiError:
        message = f"{_parse(response, _ErrorAnswer, self.url).error.message} (agent at {self.url})"
        return RequestError(message) if response.is_client_error else DeviceError(message)

    def _send(self, method: str, path: str, body: dict[str, object] | None = None) -> httpx.Response:
        with self._reachable():
            return self._http.request(method, self.url + path, json=body)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        """Tell in one line what is wrong with a connection."""
        try:
            yield
        except httpx.ConnectError as error:
            raise DeviceError(f"no agent answers at {self.url}; start one with `sti agent start`") from error
        except httpx.TimeoutException as error:
            raise DeviceError(f"the agent at {self.url} did not answer in time; is the device busy?") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeviceError(f"the agent at {self.url} cannot be asked: {error}") from error


def _body(inputs: Sequence[Text], options: RunOptions | None) -> dict[str, object]:
    """Fields that are left at None or False are left out, so that older agents understand all others."""
    options = options or RunOptions()
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    return {"input": list(inputs), **given}


def _parse(response: httpx.Response, kind: type[T], url: str) -> T:
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise DeviceError(f"what answers at {url} is not an sti agent, or of another version") from error
