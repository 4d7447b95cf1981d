"""The measurements that make an exact profile, as jobs that run anywhere the store can be read."""

import hashlib
import os
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from host.profile.sample import Sample
from shard_store.geometry import Geometry, ShardKey
from shard_store.manifest_json import dump_manifest
from shard_store.reader import Store

if TYPE_CHECKING:
    from host.profile.measure import Bench


class Kind(str, Enum):
    """What a job measures."""

    SUBMODELS = "submodels"  # of `index` slices, every depth at the best bitwidth
    UNIFORM = "uniform"  # the whole model at `index` bits
    LOWERED = "lowered"  # shard `index`, counted through the layers, at every bitwidth, all others at the best


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement. Jobs do not depend on each other."""

    kind: Kind
    index: int

    @property
    def name(self) -> str:
        """Unique, for partial results."""
        return f"{self.kind.value}_{self.index}"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """By depth, by bitwidth below the best, or one."""

    losses: npt.NDArray[np.float64]
    metrics: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What every job of a profile shares. The store must be readable under this path wherever jobs run."""

    store: Path
    manifest_sha256: str
    sample: Sample


def submodel_jobs(geometry: Geometry) -> list[Job]:
    """The grid of submodels."""
    return [Job(Kind.SUBMODELS, slices) for slices in range(geometry.slices, 0, -1)]


def shard_jobs(geometry: Geometry) -> list[Job]:
    """Every shard, the longest first: those of the first layer."""
    return [Job(Kind.LOWERED, shard) for shard in range(geometry.layers * geometry.slices)]


def shard_key(geometry: Geometry, shard: int, bitwidth: int) -> ShardKey:
    """The shard of that number, counted slice by slice through the layers."""
    return ShardKey(shard // geometry.slices, shard % geometry.slices, bitwidth)


_LOCK = RLock()


def run_job(task: Task, job: Job) -> Outcome:
    """Measure. Keeps the model of the last task, so that each process reads and computes what jobs share once."""
    with _LOCK:
        return _bench(_Cached(task)).run(job)


class _Cached:
    """A task that equals others of the same store and sample."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._key = (task.store, task.manifest_sha256, task.sample.sha256, task.sample.inputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Cached) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(1)
def _bench(cached: _Cached) -> "Bench":
    from host.profile.measure import Bench  # noqa: PLC0415 - it imports TensorFlow, which a pool's process sets up first

    return Bench.open(cached.task)


def start_process() -> None:
    """Sets up a process of a pool: one thread, as there is one process for each core."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    from host.quiet_tensorflow import tf  # noqa: PLC0415 - after the variables are set

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def manifest_sha256(store: Store) -> str:
    """Names a store's content: shards and tensors by their checksums, whatever profile it holds."""
    return hashlib.sha256(dump_manifest(replace(store.manifest, profile=None))).hexdigest()
