"""A chat as a prompt: the model's own Jinja2 template, run in a sandbox."""

from collections.abc import Mapping, Sequence

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shard_store.errors import RequestError
from shard_store.generation import Generation

MAX_PROMPT_CHARACTERS = 1 << 20


def chat_prompt(generation: Generation, messages: Sequence[Mapping[str, str]]) -> str:
    """The text behind which the assistant's answer is to come; special tokens are part of it.

    Raises RequestError if the model has no template, or if the template refuses the messages.
    """
    if not generation.chat_template:
        raise RequestError("this model has no chat template; ask /v1/completions")
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        prompt = environment.from_string(generation.chat_template).render(
            messages=list(messages), add_generation_prompt=True,
            bos_token=generation.begin_text, eos_token=generation.end_text,
        )  # fmt: skip
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RequestError(f"messages: the model's chat template refuses them: {reason}") from error
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise RequestError(f"messages: the prompt has more than {MAX_PROMPT_CHARACTERS} characters; send fewer")
    return prompt


def _refuse(message: str) -> None:
    raise TemplateError(message)
