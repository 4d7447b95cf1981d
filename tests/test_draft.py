"""Guesses out of the text itself: which ones, and how far they go."""

import numpy as np
import pytest

from device_agent.draft import PAUSE_STEPS, PromptLookup


def drafted(tokens: list[int], room: int = 4, most: int = 8) -> list[int]:
    return list(PromptLookup(most).draft(np.array(tokens), room, free=True).tolist())


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([1, 2, 3, 4, 5, 6, 1, 2, 3], [4, 5, 6, 1]),
        ([2, 3, 7, 9, 1, 3, 8, 5, 2, 3], [7, 9, 1, 3]),  # the longest match, not the latest
        ([3, 7, 9, 9, 3, 8, 9, 9, 3], [8, 9, 9, 3]),  # of equally long ones the latest
        ([5, 6, 5], [6, 5, 6, 5]),  # what repeats is guessed to repeat again
        ([4, 4], [4, 4, 4, 4]),
        ([1, 2, 3], []),
        ([1], []),
    ],
)
def test_what_followed_the_longest_match_is_the_draft(tokens: list[int], draft: list[int]) -> None:
    assert drafted(tokens) == draft


def test_a_draft_has_no_more_tokens_than_there_is_room_for() -> None:
    assert drafted([4, 4], room=2) == [4, 4]
    assert drafted([4, 4], room=0) == drafted([4, 4], most=0) == []
    assert len(drafted([4, 4], room=20, most=3)) == 3


def lengths_of(lookup: PromptLookup, steps: int, *, right: bool) -> list[int]:
    """Of the drafts of a text that repeats itself, all of them right or all wrong."""
    lengths = []
    for _ in range(steps):
        lengths.append(len(lookup.draft(np.array([4, 4]), 9)))
        lookup.learn(lengths[-1], lengths[-1] if right else 0)
    return lengths


def test_guesses_that_keep_being_wrong_are_left_alone_for_a_while() -> None:
    lookup = PromptLookup(4, first=1)
    assert lengths_of(lookup, 4, right=True) == [1, 2, 4, 4]
    assert lengths_of(lookup, 3, right=False) == [4, 2, 1]
    assert (lookup.drafted, lookup.accepted) == (18, 11)
    assert lengths_of(lookup, PAUSE_STEPS, right=False) == [0] * PAUSE_STEPS
    assert lengths_of(PromptLookup(4), 4, right=False) == [4, 2, 1, 0]


def test_guesses_that_cost_nothing_go_on() -> None:
    lookup = PromptLookup(4)
    for _ in range(9):
        assert len(lookup.draft(np.array([4, 4]), 9, free=True)) == 4
        lookup.learn(4, 0)


def test_no_guesses_stay_none() -> None:
    assert lengths_of(PromptLookup(0), PAUSE_STEPS + 2, right=True) == [0] * (PAUSE_STEPS + 2)
