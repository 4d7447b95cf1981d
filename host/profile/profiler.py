"""`sti profile`: what each choice of layers, slices and bitwidths costs in quality, measured and put into the store."""

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from host.profile.image_sample import read_image_sample
from host.profile.jobs import Job, Kind, Outcome, Task, manifest_sha256, shard_jobs, submodel_jobs
from host.profile.losses import Doubles, additive_losses, own_losses
from host.profile.partial import PartialResults
from host.profile.quality import metric_name
from host.profile.sample import Sample
from host.profile.text_sample import read_prompt_sample, read_text_sample
from host.profile.workers import Workers, dask, pool
from shard_store.geometry import Geometry
from shard_store.manifest import Manifest
from shard_store.profile import Grid, Profile, ProfileMethod, first_layers
from shard_store.profile_writer import write_profile
from shard_store.reader import Store

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all
Measured = dict[Job, Outcome]
ShardLosses = dict[int, Doubles]  # by bitwidth below the best: (shards,)
DEFAULT_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How to profile."""

    samples: int = DEFAULT_SAMPLES
    processes: int | None = None  # None: one for each processor
    method: ProfileMethod = ProfileMethod.EXACT
    dask_address: str | None = None
    resume: bool = False

    def workers(self) -> Workers:
        """Where the measurements run."""
        return dask(self.dask_address) if self.dask_address else pool(self.processes or os.cpu_count() or 1)


def profile_store(
    path: Path, data: Path, options: ProfileOptions, progress: Progress, workers: Workers | None = None
) -> Profile:
    """Measure a store's importance profile on texts or images and write it into the store.

    Raises DataError for data that cannot be used, FormatError or ChecksumError for a damaged store, DeviceError for a
    Dask cluster that fails.
    """
    with Store.open(path) as store:
        manifest = store.manifest
        task = Task(path.resolve(), manifest_sha256(store), read_sample(store, data, options.samples))
    kept = PartialResults(task)
    if options.resume:
        kept.load()
    measure = _Measurement(task, workers or options.workers(), kept, progress)
    measured = measure(_jobs(manifest, options.method))
    alone = _measured_losses if options.method is ProfileMethod.EXACT else _estimated_losses
    found = _profile(task, manifest, options.method, measured, alone(task, measured, manifest))
    write_profile(path, found)
    kept.remove()
    return found


class _Measurement:
    """Runs jobs, but for those that are known from an earlier run; what it has when it is stopped is kept."""

    def __init__(self, task: Task, workers: Workers, kept: PartialResults, progress: Progress) -> None:
        self._task, self._workers, self._kept, self._progress = task, workers, kept, progress

    def __call__(self, jobs: list[Job]) -> Measured:
        found = {job: outcome for job in jobs if (outcome := self._kept.get(job)) is not None}
        self._progress("measurements", len(found), len(jobs))
        try:
            for job, outcome in self._workers(self._task, [job for job in jobs if job not in found]):
                found[job] = outcome
                self._kept.add(job, outcome)
                self._progress("measurements", len(found), len(jobs))
        finally:
            self._kept.save()
        return found


def read_sample(store: Store, data: Path, limit: int | None) -> Sample:
    """What the store's model reads: labelled images, plain texts, or texts of a task. Raises DataError."""
    description = store.manifest.description
    if description.image is not None:
        return read_image_sample(store, data, description.image, limit)
    return (read_text_sample if description.generation is None else read_prompt_sample)(store, data, limit)


def _jobs(manifest: Manifest, method: ProfileMethod) -> list[Job]:
    """What is run: the submodels, and the whole model at each bitwidth below the best; and each shard, if it must."""
    *lower, _ = manifest.bitwidths
    jobs = [*submodel_jobs(manifest.geometry), *(Job(Kind.UNIFORM, bitwidth) for bitwidth in lower)]
    return jobs + shard_jobs(manifest.geometry) if lower and method is ProfileMethod.EXACT else jobs


def _measured_losses(_task: Task, measured: Measured, manifest: Manifest) -> ShardLosses:
    *lower, _ = manifest.bitwidths
    shards = range(manifest.geometry.layers * manifest.geometry.slices)
    losses = [measured[Job(Kind.LOWERED, shard)].losses for shard in shards if lower]  # (bitwidths,) each
    return {bitwidth: np.array([one[row] for one in losses]) for row, bitwidth in enumerate(lower)}


def _estimated_losses(task: Task, _measured: Measured, _manifest: Manifest) -> ShardLosses:
    from host.profile.estimate import estimated_changes  # noqa: PLC0415 - it imports TensorFlow, which takes seconds
    from host.profile.measure import Bench  # noqa: PLC0415 - and so does this

    with closing(Bench.open(task)) as bench:
        return {bitwidth: own_losses(changes) for bitwidth, changes in estimated_changes(bench).items()}


def _profile(task: Task, manifest: Manifest, method: ProfileMethod, measured: Measured, alone: ShardLosses) -> Profile:
    geometry = manifest.geometry
    by_slices = [measured[Job(Kind.SUBMODELS, slices)] for slices in range(1, geometry.slices + 1)]
    uniform = {bitwidth: float(measured[Job(Kind.UNIFORM, bitwidth)].losses[0]) for bitwidth in alone}
    shard_loss = additive_losses(alone, uniform) if alone else {}
    nothing = np.zeros(geometry.layers * geometry.slices)
    head = manifest.description.head
    return Profile(
        metric=metric_name(head),
        samples=task.sample.inputs,
        data_sha256=task.sample.sha256,
        method=method,
        metrics=_grid(np.stack([one.metrics for one in by_slices], axis=1)),
        submodel_loss=_grid(np.stack([one.losses for one in by_slices], axis=1)),
        shard_loss={
            bitwidth: _grid(_by_layer(shard_loss.get(bitwidth, nothing), geometry)) for bitwidth in manifest.bitwidths
        },
        layer_choices=first_layers(geometry.layers),
    )


def _by_layer(losses: Doubles, geometry: Geometry) -> Doubles:
    return losses.reshape(geometry.layers, geometry.slices)


def _grid(values: Doubles) -> Grid:
    return tuple(tuple(float(value) for value in row) for row in values)


@dataclass(frozen=True, slots=True)
class ProfileReport:
    """What was found, in short."""

    store: Path
    method: ProfileMethod
    samples: int  # texts or images
    metric: str
    whole_model: float  # the metric of all layers and slices
    best_submodel: str
    loss_by_bits: tuple[str, ...]  # of the whole model, in nats
    heat_map: Path | None


def report_of(profile: Profile, store: Path, heat_map: Path | None) -> ProfileReport:
    """The report of a profile."""
    metrics = np.array(profile.metrics)
    layer, part = np.unravel_index(metrics.argmax(), metrics.shape)
    sums = tuple(f"{bitwidth}: {float(np.sum(grid)):.5f}" for bitwidth, grid in sorted(profile.shard_loss.items()))
    best = f"{layer + 1} layers x {part + 1} slices: {metrics.max():.4f}"
    return ProfileReport(
        store, profile.method, profile.samples, profile.metric, float(metrics[-1, -1]), best, sums, heat_map
    )
