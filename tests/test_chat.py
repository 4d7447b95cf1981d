import pytest

from device_agent.chat import chat_prompt
from shard_store.errors import RequestError
from shard_store.generation import Generation

MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def prompt(template: str) -> str:
    return chat_prompt(Generation((0,), template, "<s>", "</s>"), MESSAGES)


def test_a_template_sees_messages_and_marks() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n    [{{ m['role'] }}] {{ m['content'] | trim }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    assert prompt(template) == "<s>    [user] hello</s>    [assistant] hi</s>[assistant]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "no chat template; ask /v1/completions"),
        ("{% for", "chat template refuses them"),
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ ''.__class__.__mro__ }}", "refuses them: access to attribute"),
        ("{% for i in range(1000000) %}x{% endfor %}", "refuses them: Range too big"),
        ("{{ messages[9].role }}", "refuses them"),
    ],
)
def test_what_a_template_refuses(template: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prompt(template)
