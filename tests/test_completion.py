"""Tokens become text: when it settles, where it stops."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from device_agent.completion import Completion, FinishReason, GenerateOptions
from device_agent.draft import PromptLookup
from shard_store.errors import RequestError

PIECES = [b"", b"he", b"llo", b" wor", b"ld", b"\xc3", b"\xb6", b"!"]


def decode(ids: Sequence[int]) -> str:
    return b"".join(PIECES[token] for token in ids).decode("utf-8", "replace")


def completion(stop: tuple[str, ...] = (), max_tokens: int = 20) -> Completion:
    return Completion(np.array([1]), GenerateOptions(max_tokens, stop=stop), (0,), decode, PromptLookup(4))


def logits_of(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """A row for each token, that has it chosen."""
    return np.eye(len(PIECES), dtype=np.float32)[list(tokens)]


def feed(completion: Completion, tokens: Sequence[int]) -> list[str]:
    told: list[str] = []
    for token in tokens:
        told += completion.take(logits_of([token]))
        if completion.finish_reason is not None:
            break
    return told


def test_text_comes_with_its_tokens() -> None:
    text = completion()
    assert feed(text, [1, 2, 3, 4, 0]) == ["he", "llo", " wor", "ld", ""]
    assert (text.text, text.ids, text.finish_reason) == ("hello world", [1, 2, 3, 4], FinishReason.STOP)


@pytest.mark.parametrize(
    ("drafts", "told", "accepted"),
    [
        ([1, 2, 3], ("he", "llo", " wor", "ld"), 3),
        ([1, 2, 7], ("he", "llo", " wor"), 2),  # instead of the wrong guess comes the token that is chosen
        ([1, 7, 3], ("he", "llo"), 1),  # behind a wrong guess nothing counts
        ([7, 2, 3], ("he",), 0),
        ([], ("he",), 0),
    ],
)
def test_drafts_are_kept_as_long_as_they_are_right(drafts: list[int], told: tuple[str, ...], accepted: int) -> None:
    text = completion()
    assert text.take(logits_of([1, 2, 3, 4][: 1 + len(drafts)]), np.array(drafts, np.int64)) == told
    assert (text.text, text.ids) == ("".join(told), [1, 2, 3, 4][: len(told)])
    assert (text.lookup.drafted, text.lookup.accepted) == (len(drafts), accepted)


@pytest.mark.parametrize(("tokens", "stop"), [([1, 2, 0, 4], ()), ([1, 2, 3, 4], ("lo w",))])
def test_drafts_behind_the_end_of_a_text_are_dropped(tokens: list[int], stop: tuple[str, ...]) -> None:
    text, alone = completion(stop), completion(stop)
    assert list(text.take(logits_of(tokens), np.array(tokens[:-1]))) == feed(alone, tokens)
    assert (text.text, text.ids, text.finish_reason) == (alone.text, alone.ids, FinishReason.STOP)


def test_a_character_of_several_tokens_waits_for_its_last() -> None:
    text = completion()
    assert feed(text, [1, 5, 6, 7]) == ["he", "", "ö", "!"]
    unfinished = completion(max_tokens=2)
    assert feed(unfinished, [1, 5]) == ["he", "\ufffd"]


def test_the_number_of_tokens_ends_a_text() -> None:
    text = completion(max_tokens=2)
    feed(text, [1, 2, 3])
    assert (text.text, text.finish_reason) == ("hello", FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (("lo w",), ["he", "l", ""]),
        (("o w", "hel"), ["", ""]),
        (("lol",), ["he", "l", "lo wor", "ld"]),
        (("d!",), ["he", "llo", " wor", "l", "", ""]),
    ],
)
def test_stop_strings_end_a_text_and_nothing_of_them_is_told(stop: tuple[str, ...], told: list[str]) -> None:
    text = completion(stop)
    found = feed(text, [1, 2, 3, 4, 7])
    assert found[: len(told)] == told[: len(found)]
    if text.finish_reason is FinishReason.STOP:
        assert not any(part in text.text for part in stop)
        assert "".join(found) == text.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, must be at least 1"),
        ({"stop": ("",)}, "at most 4 strings of 1 to 256"),
        ({"stop": ("a",) * 5}, "at most 4 strings"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        GenerateOptions(**options)  # type: ignore[arg-type]
