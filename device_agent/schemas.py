"""The JSON of the HTTP interface, in the shapes of OpenAI's API where it has one (docs/http.md)."""

import base64
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from device_agent.goal import MAX_TARGET_MS
from device_agent.plan import plan_document
from device_agent.report import RunReport
from shard_store.errors import RequestError

MAX_INPUTS = 2048
MAX_MEMORY_MB = 1 << 20

NonEmptyText = Annotated[str, Field(min_length=1)]
TextPair = Annotated[list[NonEmptyText], Field(min_length=2, max_length=2)]
_TextList = Annotated[list[NonEmptyText], Field(min_length=1, max_length=MAX_INPUTS), Tag("texts")]
_PairList = Annotated[list[TextPair], Field(min_length=1, max_length=MAX_INPUTS), Tag("pairs")]
_OneText = Annotated[NonEmptyText, Tag("text")]


def _kind_of_input(value: object) -> str | None:
    """Which form of input to check, so that an error names the element and not every form that it is not."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "pairs" if value and isinstance(value[0], list) else "texts"
    return None


def _by_kind(message: str) -> Discriminator:
    return Discriminator(_kind_of_input, custom_error_type="input_kind", custom_error_message=message)


class RunOptions(BaseModel):
    """What both requests may say about the run. Unknown fields are refused, wrong types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    plan: dict[str, Any] | None = None  # a document as device_agent.plan.parse_plan reads it
    target_ms: Annotated[float, Field(gt=0, le=MAX_TARGET_MS)] | None = None
    memory_mb: Annotated[float, Field(gt=0, le=MAX_MEMORY_MB)] | None = None
    show_plan: bool = False
    truncate: bool = False


class EmbeddingRequest(RunOptions):
    """POST /v1/embeddings."""

    input: Annotated[_OneText | _TextList, _by_kind("must be a text or a list of texts")]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None  # OpenAI's field for tracing abuse: accepted, not used

    @property
    def texts(self) -> list[str]:
        """The inputs, as a list also if there is but one."""
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifyRequest(RunOptions):
    """POST /v1/classify."""

    input: Annotated[
        _OneText | _TextList | _PairList, _by_kind("must be a text, a list of texts or a list of pairs of texts")
    ]
    model: str | None = None

    @property
    def texts(self) -> list[str | tuple[str, str]]:
        """The inputs, as a list also if there is but one."""
        inputs = [self.input] if isinstance(self.input, str) else self.input
        return [item if isinstance(item, str) else (item[0], item[1]) for item in inputs]


class ImageClassifyRequest(RunOptions):
    """POST /v1/images/classify: PNG or JPEG files in base64, with or without `data:...;base64,` in front."""

    input: Annotated[_OneText | _TextList, _by_kind("must be an image in base64 or a list of them")]
    model: str | None = None

    @property
    def images(self) -> list[bytes]:
        """The files. Raises RequestError for what is not base64."""
        inputs = [self.input] if isinstance(self.input, str) else self.input
        return [_from_base64(text, index) for index, text in enumerate(inputs)]


def _from_base64(text: str, index: int) -> bytes:
    try:
        return base64.b64decode(text.partition(";base64,")[2] if text.startswith("data:") else text, validate=True)
    except ValueError as error:
        raise RequestError(f"input {index} is not base64; encode the bytes of a PNG or JPEG file") from error


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    total_tokens: int


class RunSummary(BaseModel):
    """The field "sti" of every answer: what ran, where the time went and how much memory that took."""

    layers: int
    slices: int
    bits: list[int]
    resident_layers: int
    executor: str
    passes: int
    sequences: list[int]
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
    target_ms: float | None = None  # this and all below: of answers with a target
    predicted_ms: float | None = None
    measured_ms: float | None = None
    met: bool | None = None
    reason: str | None = None  # why the target cannot be met, and which can
    predicted_loss: float | None = None
    predicted_peak_bytes: int | None = None
    plans: list[dict[str, Any]] | None = None  # of each pass, if asked for

    @classmethod
    def of(cls, report: RunReport, *, show_plan: bool = False) -> "RunSummary":
        """The report of an engine, flattened."""
        outcome = report.outcome
        promised = {} if outcome is None else {**asdict(outcome), "met": outcome.met}
        return cls(
            layers=report.layers, slices=report.slices, bits=list(report.bits),
            resident_layers=report.resident_layers, executor=report.executor, passes=report.passes,
            sequences=list(report.sequences), tokens=report.tokens,
            read_ms=report.times.read_ms, prepare_ms=report.times.prepare_ms, execute_ms=report.times.execute_ms,
            wait_ms=report.times.wait_ms, total_ms=report.times.total_ms, answer_ms=report.answer_ms,
            budget_bytes=report.budget_bytes, model_peak_bytes=report.model_peak_bytes,
            process_peak_bytes=report.process_peak_bytes,
            plans=[plan_document(plan) for plan in report.plans] if show_plan else None,
            **promised,
        )  # fmt: skip


class EmbeddingItem(BaseModel):
    """One embedding: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class LabelScore(BaseModel):
    """A label and its score."""

    label: str
    score: float


class ClassificationItem(LabelScore):
    """The best label of one input, and all scores in the order of the model's labels."""

    object: Literal["classification"] = "classification"
    index: int
    scores: list[LabelScore]


class TokenLabel(LabelScore):
    """The best label of one token, and where it stands in the text: characters `start` up to `end`."""

    token: str
    start: int
    end: int


class TokenClassificationItem(BaseModel):
    """The labels of one input's tokens."""

    object: Literal["token_classification"] = "token_classification"
    index: int
    tokens: list[TokenLabel]


class _AnswerList(BaseModel):
    object: Literal["list"] = "list"
    model: str
    usage: Usage
    sti: RunSummary


class EmbeddingList(_AnswerList):
    """Answer of /v1/embeddings: one item per input."""

    data: list[EmbeddingItem]


class ClassificationList(_AnswerList):
    """Answer of /v1/classify: one item per input, all of the same kind."""

    data: list[ClassificationItem | TokenClassificationItem]


class Sizes(BaseModel):
    """The sizes of a transformer's body."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    slices: int


class ModelCard(BaseModel):
    """The loaded model: OpenAI's fields, then what a request may ask of it."""

    object: Literal["model"] = "model"
    id: str
    created: int
    owned_by: Literal["sti"] = "sti"
    family: str
    head: str
    labels: list[str]
    geometry: Sizes
    bits: list[int]
    sequences: list[int]
    max_tokens: int


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Budget(BaseModel):
    """PUT /v1/budget, and its answer: the memory that the model may take from now on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    memory_mb: Annotated[float, Field(gt=0, le=MAX_MEMORY_MB)]


class Health(BaseModel):
    """GET /health."""

    status: Literal["loading", "ok", "failed"]
    pid: int
    reason: str | None = None
    model: str | None = None
    waiting: int = 0  # requests that are running or queued
    budget_bytes: int | None = None
    model_held_bytes: int | None = None
    process_resident_bytes: int
    process_peak_bytes: int


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody
