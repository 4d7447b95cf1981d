"""The JSON of text generation, in OpenAI's shapes (docs/http.md)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from device_agent.completion import MAX_STOPS, FinishReason, GenerateOptions
from device_agent.goal import MAX_TARGET_MS
from device_agent.sampling import Sampling

COMPLETION_TOKENS = 16  # OpenAI's default
CHAT_TOKENS = 256
MAX_MESSAGES = 1024


class StreamOptions(BaseModel):
    """What a stream holds beside its pieces."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class _GenerationRequest(BaseModel):
    """What both requests may say. Unknown fields are refused, wrong types are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: Annotated[int, Field(ge=0)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None  # OpenAI's field for tracing abuse: accepted, not used
    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    plan: dict[str, Any] | None = None
    target_ms: Annotated[float, Field(gt=0, le=MAX_TARGET_MS)] | None = None  # of a step of one token

    def options(self, max_tokens: int) -> GenerateOptions:
        """Checked. Raises RequestError."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        sampling = Sampling(self.temperature, self.top_k, self.top_p, self.seed)
        return GenerateOptions(max_tokens, sampling, stop)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_GenerationRequest):
    """POST /v1/completions."""

    prompt: Annotated[str, Field(min_length=1)]


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(_GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


class CompletionUsage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerationSummary(BaseModel):
    """The field "sti": what ran for this text. Times are those of the passes that it took part in.

    Those from target_ms on are of texts with a target, and null in others.
    """

    layers: int
    slices: int
    bits: list[int]
    steps: int
    shared_steps: int
    drafted: int  # tokens
    accepted: int
    read_ms: float
    prepare_ms: float
    execute_ms: float
    wait_ms: float
    total_ms: float
    first_token_ms: float
    answer_ms: float
    budget_bytes: int
    model_peak_bytes: int
    target_ms: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None  # the median of its steps behind the prompt; none in an answer of one token
    met: bool | None = None
    reason: str | None = None
    predicted_loss: float | None = None
    predicted_peak_bytes: int | None = None


class CompletionChoice(BaseModel):
    """A text, or a piece of one."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatDelta(BaseModel):
    """A message, or a piece of one."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChoice(BaseModel):
    """A message."""

    index: int = 0
    message: ChatDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatPieceChoice(BaseModel):
    """A piece of a message."""

    index: int = 0
    delta: ChatDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class CompletionAnswer(BaseModel):
    """An answer, or one event of a stream of them."""

    id: str
    object: Literal["text_completion", "chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: list[CompletionChoice | ChatChoice | ChatPieceChoice]
    usage: CompletionUsage | None = None
    sti: GenerationSummary | None = None
