"""Texts to profile an encoder or a decoder on: tokenised, and grouped by length so that little is padding."""

import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from device_agent.tokenizer import open_tokenizer
from host.labelled_texts import LabelledTexts, read_labelled
from host.profile.batch import BATCH_INPUTS, TokenBatch
from host.profile.quality import metric_name
from host.profile.sample import Sample, check_count, check_examples
from shard_store.errors import DataError
from shard_store.manifest import Manifest
from shard_store.reader import Store

JUDGED_TOKENS = 4  # of each text that a decoder reads: logits of all would not fit memory
_NO_TOKEN = -1

TokenIds = tuple[Sequence[int], Sequence[int]]  # ids and types of one text, (tokens,) each


def read_text_sample(store: Store, data: Path, limit: int | None) -> Sample:
    """Read at most `limit` texts as the store's encoder reads them; longer ones are cut off as on the device.

    Where the metric needs no labels, the file may as well hold one text a line, without any tab.
    Raises DataError for a file that is malformed, too short, or whose labels are not classes of the model.
    """
    head = store.manifest.description.head
    examples = (None if metric_name(head) == "accuracy" else _plain(data, limit)) or read_labelled(data, limit)
    check_examples(examples, head, data)
    tokenizer = open_tokenizer(store)
    tokenizer.enable_truncation(_longest(store.manifest))
    texts = [(encoding.ids, encoding.type_ids) for encoding in tokenizer.encode_batch(list(examples.texts))]
    return _sample(texts, examples.labels, _digest([examples.texts, examples.labels]))


def read_prompt_sample(store: Store, data: Path, limit: int | None) -> Sample:
    """Read one text a line as the store's decoder reads prompts, at most `limit` windows of its longest sequence.

    A longer line is cut into several of them. Raises DataError for a file that cannot be read or is too short.
    """
    lines = _plain(data, limit)
    if lines is None:
        raise DataError(f"{data}: cannot be read as UTF-8 text without tabs; give one text a line")
    length = _longest(store.manifest)
    encodings = open_tokenizer(store).encode_batch(list(lines.texts))
    windows = list(
        islice(
            (
                encoding.ids[start : start + length]
                for encoding in encodings
                for start in range(0, len(encoding.ids), length)
            ),
            limit,
        )
    )
    check_count(len(windows), data, "texts")
    texts = [(ids, (0,) * len(ids)) for ids in windows]
    return _sample(texts, (0,) * len(windows), _digest(windows), judged=JUDGED_TOKENS)


def _sample(texts: Sequence[TokenIds], labels: Sequence[int], sha256: str, judged: int | None = None) -> Sample:
    order = sorted(range(len(texts)), key=lambda number: (len(texts[number][0]), number))
    random = np.random.default_rng(0)
    batches = []
    for start in range(0, len(order), BATCH_INPUTS):
        group = [texts[number] for number in order[start : start + BATCH_INPUTS]]
        ids = np.zeros((len(group), len(group[-1][0])), np.int64)
        types, real = np.zeros_like(ids), np.zeros(ids.shape, np.bool_)
        for row, (own_ids, own_types) in enumerate(group):
            ids[row, : len(own_ids)], types[row, : len(own_ids)], real[row, : len(own_ids)] = own_ids, own_types, True
        places = None if judged is None else np.stack([_judged(len(own_ids), judged, random) for own_ids, _ in group])
        batches.append(TokenBatch(ids, types, real, places))
    return Sample(tuple(batches), np.array(labels, np.int64)[order], sha256)


def _judged(tokens: int, count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Some of a text's tokens, in order: (count,)."""
    chosen = np.sort(random.permutation(tokens)[:count])
    return np.pad(chosen, (0, count - len(chosen)), constant_values=_NO_TOKEN)


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


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
