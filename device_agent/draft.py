"""Guesses at the next tokens of a text, out of the text itself: prompt look-up (Saxena 2023), without another model.

A pass reads the same shards for several tokens as for one, so guesses that turn out right are tokens that cost no pass.
Where steps read layers, wrong ones cost next to nothing. Elsewhere, how far to guess follows how the last guesses went:
twice as far after all were right, half as far after none was. Where that leaves nothing, the text is left alone for a
while.
"""

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]

DEFAULT_DRAFTS = 8  # more gained little where it was measured (docs/measurements.md)
LONGEST_MATCH = 3  # tokens at the end of the text that are looked for; where so many are not found, fewer
PAUSE_STEPS = 32  # without guesses, after guesses that kept being wrong


class PromptLookup:
    """Drafts what followed where the last tokens of a text stood before."""

    def __init__(self, most: int, *, first: int | None = None) -> None:
        """most: tokens of a draft; 0: there are none. first: those of the first draft, where wrong ones cost time."""
        self.drafted = 0  # tokens that were guessed
        self.accepted = 0  # those that were right
        self._most = most
        self._reach = most if first is None else min(first, most)
        self._pause = 0

    def draft(self, tokens: Tokens, room: int, *, free: bool = False) -> Tokens:
        """At most `room` guesses behind a text (tokens,): what followed its longest match, of these the latest.

        free: those that are wrong cost no time, so that there is no need to be careful.

        Where the text ends meanwhile, it goes on with the draft: what repeats is guessed to repeat again.
        """
        wanted = min(room, self._most if free else self._reach)
        place = _continuation(tokens) if wanted > 0 else len(tokens)
        return np.resize(tokens[place:], max(0, wanted)) if place < len(tokens) else tokens[place:]

    def learn(self, drafted: int, accepted: int) -> None:
        """Take note of a step. accepted: how many of the tokens drafted were right, from the first."""
        self.drafted += drafted
        self.accepted += accepted
        if not self._reach:
            self._pause -= 1
            self._reach = min(1, self._most) if self._pause <= 0 else 0
        elif drafted and accepted == drafted:
            self._reach = min(self._most, 2 * self._reach)
        elif drafted and not accepted:
            self._reach //= 2
            self._pause = PAUSE_STEPS


def _continuation(tokens: Tokens) -> int:
    """The place behind the latest earlier occurrence of the longest end of a text; its length if there is none."""
    for length in range(min(LONGEST_MATCH, len(tokens) - 1), 0, -1):
        starts = len(tokens) - length
        same = np.ones(starts, np.bool_)
        for offset in range(length):
            same &= tokens[offset : offset + starts] == tokens[starts + offset]
        if len(found := np.flatnonzero(same)):
            return int(found[-1]) + length
    return len(tokens)
