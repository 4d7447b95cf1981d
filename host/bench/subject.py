"""What is measured: a store, its texts, and the sequence bucket that all predictions are made for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from host.labelled_texts import LabelledTexts, Text
from shard_store.errors import DataError
from shard_store.head import HeadKind
from shard_store.manifest import Manifest
from shard_store.reader import Store

COVERED = 0.95  # share of the texts that fit the bucket
MOST_TIMED_TEXTS = 50


@dataclass(frozen=True, slots=True)
class Subject:
    """A store and labelled texts. timed: the texts of just the bucket `sequence`, which latency is measured with."""

    path: Path
    manifest: Manifest
    data: LabelledTexts
    sequence: int
    timed: tuple[Text, ...]

    @property
    def classifies(self) -> bool:
        """Whether there is an accuracy: other models are measured for latency and memory only."""
        return self.manifest.description.head.kind is HeadKind.SEQUENCE_CLASSIFICATION

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.manifest.description.head.labels


def subject_of(path: Path, data: LabelledTexts) -> Subject:
    """Open a store and see how long the texts are for it. Raises FormatError, or DataError for labels of other classes.

    The bucket is the shortest that holds 95 % of the texts.
    """
    with Store.open(path) as store:
        manifest, tokenizer_bytes = store.manifest, store.tokenizer_bytes()
    buckets = _buckets(Tokenizer.from_buffer(tokenizer_bytes), data.texts, manifest.description.sequences)
    sequence = sorted(buckets)[math.ceil(COVERED * len(buckets)) - 1]
    timed = [text for text, bucket in zip(data.texts, buckets, strict=True) if bucket == sequence]
    subject = Subject(path.resolve(), manifest, data, sequence, tuple(timed[:MOST_TIMED_TEXTS]))
    highest = max(data.labels)
    if subject.classifies and highest >= len(subject.labels):
        raise DataError(f"label {highest} in the data, but the model has the classes 0 to {len(subject.labels) - 1}")
    return subject


def _buckets(tokenizer: Tokenizer, texts: Sequence[Text], sequences: Sequence[int]) -> list[int]:
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    return [next((sequence for sequence in sequences if sequence >= length), sequences[-1]) for length in lengths]
