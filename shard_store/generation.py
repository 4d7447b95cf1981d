"""What is known of a model that generates text: where it stops, and how a chat becomes a prompt."""

from dataclasses import dataclass

from shard_store.errors import FormatError
from shard_store.json_fields import JsonFields, integer

MAX_END_TOKENS = 64
MAX_TEMPLATE_CHARACTERS = 1 << 16
MAX_MARK_CHARACTERS = 256
MAX_VOCABULARY = 1 << 24


@dataclass(frozen=True, slots=True)
class Generation:
    """end_tokens: ids that end a text; chat_template: Jinja2, empty if the model knows no chat.

    begin_text, end_text: the special tokens that a chat template calls bos_token and eos_token, as text.
    """

    end_tokens: tuple[int, ...] = ()
    chat_template: str = ""
    begin_text: str = ""
    end_text: str = ""

    def __post_init__(self) -> None:
        if len(self.end_tokens) > MAX_END_TOKENS or not all(0 <= token < MAX_VOCABULARY for token in self.end_tokens):
            raise FormatError(f"generation: end_tokens must be at most {MAX_END_TOKENS} token ids")
        for name, limit in (
            ("chat_template", MAX_TEMPLATE_CHARACTERS), ("begin_text", MAX_MARK_CHARACTERS),
            ("end_text", MAX_MARK_CHARACTERS),
        ):  # fmt: skip
            if len(getattr(self, name)) > limit:
                raise FormatError(f"generation: {name} has more than {limit} characters")


def parse_generation(fields: JsonFields) -> Generation:
    """From its JSON object."""
    end_tokens = fields.array("end_tokens", MAX_END_TOKENS)
    return Generation(
        tuple(integer(token, f"{fields.where}.end_tokens", 0, MAX_VOCABULARY) for token in end_tokens),
        *(_any_text(fields, name) for name in ("chat_template", "begin_text", "end_text")),
    )


def generation_document(generation: Generation) -> dict[str, object]:
    """The JSON object."""
    return {
        "end_tokens": list(generation.end_tokens), "chat_template": generation.chat_template,
        "begin_text": generation.begin_text, "end_text": generation.end_text,
    }  # fmt: skip


def _any_text(fields: JsonFields, name: str) -> str:
    value = fields.take(name)
    if not isinstance(value, str):
        raise FormatError(f"{fields.where}.{name}: must be a string")
    return value
