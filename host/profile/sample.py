"""The texts that a profile is measured on: read, tokenised, and grouped by length so that little is padding."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from host.labelled_texts import LabelledTexts, read_labelled
from host.profile.quality import metric_name
from shard_store.errors import DataError, FormatError
from shard_store.head import Head
from shard_store.manifest import Manifest
from shard_store.reader import Store

BATCH_TEXTS = 32
_MIN_TEXTS = 8


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Texts of about one length, padded at the end."""

    ids: npt.NDArray[np.int64]  # (texts, seq)
    types: npt.NDArray[np.int64]  # (texts, seq)
    real: npt.NDArray[np.bool_]  # (texts, seq): a token, not padding


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The texts by ascending length, in batches."""

    batches: tuple[TokenBatch, ...]
    labels: npt.NDArray[np.int64]  # (texts,) in the order of the batches
    sha256: str  # of texts and labels, in the order of the file

    @property
    def texts(self) -> int:
        """How many."""
        return self.labels.size


def read_sample(store: Store, data: Path, limit: int | None) -> Sample:
    """Read at most `limit` texts as the store's model reads them; longer ones are cut off as on the device.

    Where the metric needs no labels, the file may as well hold one text a line, without any tab.
    Raises DataError for a file that is malformed, too short, or whose labels are not classes of the model.
    """
    head = store.manifest.description.head
    examples = (None if metric_name(head) == "accuracy" else _plain(data, limit)) or read_labelled(data, limit)
    if len(examples.texts) < _MIN_TEXTS:
        raise DataError(f"{data}: {len(examples.texts)} texts, give at least {_MIN_TEXTS}")
    _check_labels(examples, head, data)
    return sample_of(store, examples)


def sample_of(store: Store, examples: LabelledTexts) -> Sample:
    """The same of texts that were read already."""
    try:
        tokenizer = Tokenizer.from_buffer(store.tokenizer_bytes())
    except ValueError as error:
        raise FormatError(f"{store.path}: tokenizer.json cannot be used: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(_longest(store.manifest))
    encodings = tokenizer.encode_batch(list(examples.texts))
    order = sorted(range(len(encodings)), key=lambda number: (len(encodings[number].ids), number))
    batches = []
    for start in range(0, len(order), BATCH_TEXTS):
        group = [encodings[number] for number in order[start : start + BATCH_TEXTS]]
        ids = np.zeros((len(group), len(group[-1].ids)), np.int64)
        types, real = np.zeros_like(ids), np.zeros(ids.shape, np.bool_)
        for row, encoding in enumerate(group):
            count = len(encoding.ids)
            ids[row, :count], types[row, :count], real[row, :count] = encoding.ids, encoding.type_ids, True
        batches.append(TokenBatch(ids, types, real))
    digest = hashlib.sha256(json.dumps([examples.texts, examples.labels]).encode()).hexdigest()
    return Sample(tuple(batches), np.array(examples.labels, np.int64)[order], digest)


def _plain(data: Path, limit: int | None) -> LabelledTexts | None:
    """The lines as texts; None if there are tabs, or what cannot be read."""
    try:
        lines = data.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    texts = tuple(line.strip() for line in lines if line.strip())[:limit]
    return None if any("\t" in line for line in lines) else LabelledTexts(texts, (0,) * len(texts))


def _longest(manifest: Manifest) -> int:
    return min(manifest.description.max_tokens, max(manifest.description.sequences))


def _check_labels(examples: LabelledTexts, head: Head, data: Path) -> None:
    classes = len(head.labels)
    if metric_name(head) == "accuracy" and max(examples.labels) >= max(classes, 2):
        raise DataError(
            f"{data}: label {max(examples.labels)}, the model has {classes} classes from 0 on; "
            "give the data that it was trained for"
        )
