"""Texts that share a pass over the layers: one load serves them all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

BATCH_TEXTS = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one pass, and how many there are from this one on, itself included."""

    sequence: int
    members: tuple[int, ...]  # places among the inputs
    texts_left: int


def batches(buckets: Sequence[int], texts_per_pass: Callable[[int, int], int]) -> Iterator[Batch]:
    """Inputs of the same sequence bucket together, at most `texts_per_pass(sequence, texts)` of them."""
    left = len(buckets)
    for sequence, group in groupby(sorted(range(left), key=buckets.__getitem__), key=buckets.__getitem__):
        members = tuple(group)
        while members:
            texts = texts_per_pass(sequence, min(BATCH_TEXTS, len(members)))
            yield Batch(sequence, members[:texts], left)
            left -= len(members[:texts])
            members = members[texts:]


def halvings(texts: int) -> Iterator[int]:
    """From `texts` down to 1."""
    while texts > 1:
        yield texts
        texts = (texts + 1) // 2
    yield 1
