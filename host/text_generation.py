"""Has an agent continue a prompt or answer a chat, and hands its text over as it comes."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from host.client import AgentClient
from shard_store.errors import DeviceError


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What to generate; None leaves it to the agent. chat: the prompt is a user's message, not a text's beginning."""

    chat: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    bits: int | None = None
    layers: int | None = None
    slices: int | None = None
    target_ms: float | None = None  # of a step that makes one token


@dataclass(frozen=True, slots=True)
class TextUsage:
    """Tokens of prompt and answer."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextRun:
    """What ran for a text. Times are those of the passes that it took part in.

    drafted, accepted: tokens that were guessed, and those that were right.
    """

    layers: int
    slices: int
    bits: tuple[int, ...]
    steps: int
    shared_steps: int
    drafted: int
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
    target_ms: float | None = None  # this and those below: of texts with a target, for each token
    predicted_ms: float | None = None
    measured_ms: float | None = None
    met: bool | None = None
    reason: str | None = None
    predicted_loss: float | None = None
    predicted_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """What the agent wrote behind a prompt, and why it ended: "stop" or "length"."""

    prompt: str
    text: str
    finish_reason: str
    usage: TextUsage
    sti: TextRun


@dataclass(frozen=True, slots=True)
class GeneratedTexts:
    """One for each prompt."""

    data: tuple[GeneratedText, ...]


@dataclass(frozen=True, slots=True)
class _Delta:
    content: str | None = None


@dataclass(frozen=True, slots=True)
class _Choice:
    finish_reason: str | None = None
    text: str | None = None
    delta: _Delta | None = None

    @property
    def piece(self) -> str:
        return (self.delta.content if self.delta else self.text) or ""


@dataclass(frozen=True, slots=True)
class _Error:
    message: str


@dataclass(frozen=True, slots=True)
class _Event:
    choices: tuple[_Choice, ...] = ()
    usage: TextUsage | None = None
    sti: TextRun | None = None
    error: _Error | None = None


_EVENT = TypeAdapter(_Event)


def generate_text(client: AgentClient, prompt: str, options: TextOptions, tell: Callable[[str], None]) -> GeneratedText:
    """Stream one text; `tell` gets its pieces. Raises DeviceError or RequestError as every request does."""
    pieces, reason = [], ""
    path = "/v1/chat/completions" if options.chat else "/v1/completions"
    for data in client.events(path, _body(prompt, options)):
        event = _parsed(data, client.url)
        if event.error is not None:
            raise DeviceError(f"{event.error.message} (agent at {client.url})")
        for choice in event.choices:
            pieces.append(choice.piece)
            tell(choice.piece)
            reason = choice.finish_reason or reason
        if event.usage is not None and event.sti is not None:
            return GeneratedText(prompt, "".join(pieces), reason, event.usage, event.sti)
    raise DeviceError(f"the agent at {client.url} stopped in the middle of a text; see `sti agent logs`")


def _body(prompt: str, options: TextOptions) -> dict[str, object]:
    own = {"messages": [{"role": "user", "content": prompt}]} if options.chat else {"prompt": prompt}
    given = {
        name: value for name, value in asdict(options).items() if name not in {"chat", "stop"} and value is not None
    }
    stop = {"stop": list(options.stop)} if options.stop else {}
    return {**own, **given, **stop, "stream": True, "stream_options": {"include_usage": True}}


def _parsed(data: str, url: str) -> _Event:
    try:
        return _EVENT.validate_json(data)
    except ValidationError as error:
        raise DeviceError(f"what answers at {url} is not an sti agent, or of another version") from error
