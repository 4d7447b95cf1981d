"""Measures one model on one sample: what jobs do."""

from collections.abc import Iterable

import numpy as np

from host.profile.jobs import Job, Kind, Outcome, Task, manifest_sha256, shard_key
from host.profile.quality import Outputs, Quality
from host.profile.runner import Runner
from host.profile.stored_model import StoredModel
from shard_store.errors import FormatError
from shard_store.geometry import ShardKey
from shard_store.reader import Store


class Bench:
    """A runner with the outputs of the model at its best to compare with."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        manifest = runner.model.store.manifest
        *self.lower, self.best = manifest.bitwidths
        self.quality = Quality(
            manifest.description.head, runner.uniform(self.best),
            [batch.answers for batch in runner.sample.batches], runner.sample.labels,
        )  # fmt: skip

    @classmethod
    def open(cls, task: Task) -> "Bench":
        """Read what a task names. Raises FormatError if the store under its path is another one here."""
        store = Store.open(task.store)
        if manifest_sha256(store) != task.manifest_sha256:
            store.close()
            raise FormatError(f"{task.store}: not the store that is being profiled; every process must see the same")
        return cls(Runner(StoredModel(store), task.sample))

    def close(self) -> None:
        """Closes the store."""
        self.runner.model.close()

    def run(self, job: Job) -> Outcome:
        """Do one measurement."""
        if job.kind is Kind.SUBMODELS:
            return self._judge(self.runner.submodels(job.index, self.best))
        if job.kind is Kind.UNIFORM:
            return self._judge([self.runner.uniform(job.index)])
        return self._judge(self.runner.changed(self.best, self._key(job, bitwidth)) for bitwidth in self.lower)

    def _key(self, job: Job, bitwidth: int) -> ShardKey:
        return shard_key(self.runner.geometry, job.index, bitwidth)

    def _judge(self, runs: Iterable[Outputs]) -> Outcome:
        """One after another: the outputs of a language model are large."""
        judged = [(self.quality.loss(outputs), self.quality.metric(outputs)) for outputs in runs]
        losses, metrics = np.array(judged).T
        return Outcome(losses, metrics)
