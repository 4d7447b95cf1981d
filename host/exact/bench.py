"""`sti bench --exact`: one store's whole model, by PIPELOAD, PipeSwitch and load-all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from host.exact.cells import MIB, Flash, Subject, cells, ways
from host.exact.results import Comparison
from host.exact.run import Report, run_cells
from shard_store.errors import PlanError
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.reader import Store

CAP_SHARES = (0.1, 0.133, 0.25)  # of the model at 32 bits
REQUESTS, QUICK_REQUESTS = 5, 2
_LATTICE_BITWIDTH = 8
_WORKING_BYTES = 10 * MIB  # buffers and activations, on top of a share


@dataclass(frozen=True, slots=True)
class ExactResult:
    """All cells of a store."""

    cells: tuple[Comparison, ...]


def bench_store(
    path: Path, out: Path, flash_mb_s: Sequence[float], report: Report, *, quick: bool = False
) -> list[Comparison]:
    """Measure a store on flash of several speeds and as it is; results are kept in `out`, and not measured again.

    Raises PlanError for a store without 8 and 32 bits, DeviceError where the kernel has no control groups for us.
    """
    with Store.open(path) as store:
        manifest = store.manifest
    if missing := {_LATTICE_BITWIDTH, EXACT_BITWIDTH} - set(manifest.bitwidths):
        raise PlanError(f"{path}: has no {min(missing)}-bit shards; package the model with --bits 8,32")
    exact_bytes = sum(span.nbytes for layer in manifest.shards[EXACT_BITWIDTH] for span in layer)
    caps = [int(share * exact_bytes) + _WORKING_BYTES for share in (CAP_SHARES[1:2] if quick else CAP_SHARES)]
    speeds = [Flash(int(speed * 1e6)) for speed in flash_mb_s] + [Flash()]
    subject = Subject(manifest.description.model, path.resolve(), max(manifest.description.sequences))
    wanted = cells([(subject, tuple(ways(caps, (1, 2))))], speeds[-2:] if quick else speeds)
    return run_cells(wanted, out, QUICK_REQUESTS if quick else REQUESTS, report)
