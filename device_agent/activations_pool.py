"""Where hidden states of texts come from: one text's stay for the next, for fresh pages take as long as embedding."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from device_agent.executor import Activations
from device_agent.litert import Runtime
from device_agent.memory import Ledger


class ActivationsPool:
    """Not thread-safe: the engine serialises."""

    def __init__(self, runtime: Runtime, hidden: int, ledger: Ledger) -> None:
        self._runtime, self._hidden, self._ledger = runtime, hidden, ledger
        self._spare: Activations | None = None
        self._spare_bytes = 0

    @contextmanager
    def batch(self, sequence: int, texts: int, nbytes: int) -> Iterator[list[Activations]]:
        """For a pass; nbytes: what they all take, which is counted inside, and what one takes behind it."""
        if self._spare is not None and self._spare.sequence != sequence:
            self.clear()
        batch = [self._spare] if self._spare else []
        self._spare = None
        self._count(0)
        try:
            with self._ledger.holding(nbytes):
                batch += [Activations(self._runtime, sequence, self._hidden) for _ in range(texts - len(batch))]
                yield batch
        finally:
            self._keep_one(batch, nbytes // texts)

    def _keep_one(self, batch: Sequence[Activations], nbytes: int) -> None:
        for activations in batch[1:]:
            activations.close()
        for activations in batch[:1]:
            self._spare = activations
            self._count(nbytes)

    def _count(self, nbytes: int) -> None:
        """Of what stays."""
        self._ledger.add(nbytes - self._spare_bytes)
        self._spare_bytes = nbytes

    def clear(self) -> None:
        """Free what stays."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        self._count(0)
