"""What a decoder's directory says of generating text: where it ends, and how a chat becomes a prompt."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from host.json_file import read_json
from shard_store.errors import CheckpointError, FormatError
from shard_store.generation import Generation

TokenIds = int | list[int] | None


class _GenerationConfig(BaseModel):
    """generation_config.json."""

    model_config = ConfigDict(extra="ignore")

    eos_token_id: TokenIds = None


class _Mark(BaseModel):
    content: str


class _NamedTemplate(BaseModel):
    name: str
    template: str


class _TokenizerConfig(BaseModel):
    """tokenizer_config.json."""

    model_config = ConfigDict(extra="ignore")

    bos_token: str | _Mark | None = None
    eos_token: str | _Mark | None = None
    chat_template: str | list[_NamedTemplate] | None = None


def read_generation(folder: Path, eos_token_id: TokenIds) -> Generation:
    """From generation_config.json (before config.json's eos_token_id) and tokenizer_config.json, as they are there.

    Raises:
        CheckpointError: one of them is malformed.
    """
    ends = eos_token_id
    if (folder / "generation_config.json").is_file():
        stored = read_json(folder / "generation_config.json", TypeAdapter(_GenerationConfig)).eos_token_id
        ends = eos_token_id if stored is None else stored
    tokens = _TokenizerConfig()
    if (folder / "tokenizer_config.json").is_file():
        tokens = read_json(folder / "tokenizer_config.json", TypeAdapter(_TokenizerConfig))
    end_tokens = () if ends is None else (ends,) if isinstance(ends, int) else tuple(ends)
    try:
        template = _chat_template(folder, tokens)
        return Generation(end_tokens, template, _text(tokens.bos_token), _text(tokens.eos_token))
    except FormatError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _chat_template(folder: Path, tokens: _TokenizerConfig) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if isinstance(tokens.chat_template, list):
        named = {entry.name: entry.template for entry in tokens.chat_template}
        return named.get("default", "")
    return tokens.chat_template or ""


def _text(mark: str | _Mark | None) -> str:
    return mark.content if isinstance(mark, _Mark) else mark or ""
