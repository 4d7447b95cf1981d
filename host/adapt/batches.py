"""Labelled texts as batches: tokenized once, of similar length each, in an order that only the seed decides."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from host.checkpoint import Checkpoint
from host.embedder import Embedder, TokenIds, pad
from host.labelled_texts import LabelledTexts
from host.quiet_tensorflow import tf
from host.transformer import MASKED, Tensor

_POOL = 50  # batches whose texts are sorted by length together


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one training step."""

    hidden: Tensor  # (texts, seq, hidden): embedded tokens
    mask: Tensor  # (texts, 1, 1, seq): 0 for tokens, MASKED for padding
    real: Tensor  # (texts, seq): 1 for tokens, 0 for padding
    labels: Tensor  # (texts,): int32


class BatchSource:
    """Makes batches of one data file."""

    def __init__(self, checkpoint: Checkpoint, embedder: Embedder, data: LabelledTexts, max_tokens: int) -> None:
        tokenizer = Tokenizer.from_buffer(checkpoint.tokenizer_json)
        tokenizer.enable_truncation(min(max_tokens, checkpoint.max_tokens))
        self._tokens = [TokenIds.of(encoding) for encoding in tokenizer.encode_batch(list(data.texts))]
        self._labels = np.array(data.labels, np.int32)
        self._lengths = np.array([len(tokens) for tokens in self._tokens])
        self._embedder = embedder

    def __len__(self) -> int:
        return len(self._tokens)

    def shuffled(self, batch: int, seed: int, start: int) -> Iterator[Batch]:
        """Batches without end, from the given step on; the same whether or not those before were asked for."""
        per_epoch = len(self) // batch
        epoch, skip = divmod(start, per_epoch)
        while True:
            for rows in self._epoch(batch, seed, epoch)[skip:]:
                yield self.batch(rows)
            epoch, skip = epoch + 1, 0

    def in_order_of_length(self, batch: int) -> Iterator[Batch]:
        """Every text once."""
        order = np.argsort(self._lengths, kind="stable")
        for start in range(0, len(self), batch):
            yield self.batch(order[start : start + batch])

    def batch(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Batch:
        """The texts of some rows."""
        tokens = pad([self._tokens[row] for row in rows])
        return Batch(
            hidden=tf.constant(self._embedder.embed(tokens)),
            mask=tf.constant(np.where(tokens.real, np.float32(0), np.float32(MASKED))[:, None, None, :]),
            real=tf.constant(tokens.real.astype(np.float32)),
            labels=tf.constant(self._labels[list(rows)]),
        )

    def _epoch(self, batch: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
        generator = np.random.default_rng((seed, epoch))
        order = generator.permutation(len(self))
        batches: list[npt.NDArray[np.int64]] = []
        for start in range(0, len(order), _POOL * batch):
            pool = order[start : start + _POOL * batch]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += [pool[row : row + batch] for row in range(0, len(pool) - batch + 1, batch)]
        return [batches[index] for index in generator.permutation(len(batches))]
