"""Where jobs run: here, in a pool of processes, or on a Dask cluster."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from functools import partial
from typing import Any, TypeAlias

from host.profile.jobs import Job, Outcome, Task, run_job, start_process
from shard_store.errors import DeviceError

Workers: TypeAlias = Callable[[Task, Sequence[Job]], Iterator[tuple[Job, Outcome]]]
_CONNECT_SECONDS = 10


def inline(task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    """One after another in this process."""
    for job in jobs:
        yield job, run_job(task, job)


def pool(processes: int) -> Workers:
    """Processes of one thread each, started afresh, as TensorFlow does not survive a fork."""

    def run(task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(min(processes, max(len(jobs), 1)), context, start_process)
        try:
            futures = {executor.submit(run_job, task, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenExecutor as error:
            raise DeviceError("a process of --jobs was ended, for lack of memory perhaps; try fewer") from error
        finally:
            executor.shutdown(cancel_futures=True)

    return run


def dask(address: str) -> Workers:
    """The workers of an existing Dask cluster. They must have this program, and see the store under the same path.

    Raises DeviceError if Dask is not installed, the cluster does not answer, or one of its workers is lost.
    """
    return partial(_run_on_dask, address)


def _run_on_dask(address: str, task: Task, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    distributed = _import_dask()
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise DeviceError(
            f"Dask cluster {address}: cannot be reached ({_first_line(error)}); start it first"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise DeviceError(f"Dask cluster {address}: has no workers; start some")
        shared = client.scatter(task, broadcast=True, hash=False)  # once for each worker: images are large
        futures = {client.submit(run_job, shared, job, pure=False): job for job in jobs}
        try:
            for future in distributed.as_completed(list(futures)):
                yield futures[future], future.result()
        except (distributed.scheduler.KilledWorker, distributed.CancelledError, ModuleNotFoundError) as error:
            raise DeviceError(f"Dask cluster {address}: a worker failed ({_first_line(error)})") from error
        finally:
            client.cancel(list(futures))


def _import_dask() -> Any:  # noqa: ANN401 - a module without types
    try:
        import distributed  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise DeviceError("--dask: Dask is not installed; pip install 'sti[dask]'") from error
    return distributed


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
