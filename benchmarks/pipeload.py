"""PIPELOAD against PipeSwitch and load-all on flash of several speeds: `python -m benchmarks.pipeload --folder DIR`.

Random weights in the geometry of BERT-Large, ViT-Large, GPT-2 and a GPT-J scaled to a small machine, all as encoder
layers. Needs root and control groups: the kernel slows the flash down and caps the memory. What the folder already
holds is not measured again.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.random_model import EncoderShape, write_random_bert
from host.display import progress_bar
from host.exact.cells import Cell, Flash, Subject, cells, ways
from host.exact.run import run_cells
from host.exact.show import print_comparison
from shard_store.errors import FormatError, StiError
from shard_store.reader import Store

MIB = 1 << 20
SPEEDS = (Flash(200_000_000), Flash(500_000_000), Flash(1_000_000_000), Flash())


@dataclass(frozen=True, slots=True)
class Model:
    """A geometry, its sequence buckets, and the caps that are tried (MiB)."""

    name: str
    shape: EncoderShape
    sequences: tuple[int, ...]
    caps_mib: tuple[float, ...]


BERT_LARGE = EncoderShape(24, 1024, 16, 4096)
MODELS = {
    "BERT-Large": Model("BERT-Large", BERT_LARGE, (128,), (40, 96, 160)),
    "ViT-Large": Model("ViT-Large", BERT_LARGE, (208,), (48, 96, 160)),  # 197 tokens, rounded up
    "GPT-2": Model("GPT-2", EncoderShape(12, 768, 12, 3072), (64,), (24, 30, 64)),
    "GPT-J-like": Model("GPT-J-like", EncoderShape(12, 2048, 16, 8192), (64,), (128, 256)),
}
AGENTS = (1, 2, 3)


def main() -> None:
    """Package what is missing, measure, print. Exits 1 with one line if something does not work."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="stores and results; on the disk to be measured")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--flash-mb-s", nargs="+", type=float, metavar="MB", help="speeds of the flash; 0: as it is")
    parser.add_argument("--requests", type=int, default=5, help="timed requests of a cell (default: %(default)s)")
    parser.add_argument("--planned", action="store_true", help="only PIPELOAD as planned for each cap, no baselines")
    parser.add_argument("--quick", action="store_true", help="GPT-2 only, on two speeds of flash, two requests")
    parser.add_argument("--fresh", action="store_true", help="measure again what the folder already holds")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each cell")
    options = parser.parse_args()
    names = ["GPT-2"] if options.quick else options.models
    speeds: tuple[Flash, ...] = SPEEDS[1:3] if options.quick else SPEEDS
    if options.flash_mb_s:
        speeds = tuple(Flash(int(speed * 1e6) or None) for speed in options.flash_mb_s)
    requests = 2 if options.quick else options.requests
    try:
        chosen = [cell for name in names for cell in cells_of(MODELS[name], options.folder, speeds)]
        if options.planned:
            chosen = [cell for cell in chosen if cell.way.cap_bytes is not None]
        with progress_bar() as progress:
            comparisons = run_cells(chosen, options.folder, requests, progress, fresh=options.fresh)
    except StiError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    if options.json:
        for comparison in comparisons:
            print(json.dumps(asdict(comparison)))
    else:
        print_comparison(Console(width=170), comparisons)


def cells_of(model: Model, folder: Path, speeds: tuple[Flash, ...]) -> list[Cell]:
    """All cells of a model, which is packaged if it is not there yet."""
    store = packaged(model, folder)
    caps = [int(cap * MIB) for cap in model.caps_mib]
    subjects = [Subject(model.name, store, sequence) for sequence in model.sequences]
    return cells([(subject, tuple(ways(caps, AGENTS))) for subject in subjects], speeds)


def packaged(model: Model, folder: Path) -> Path:
    """The store of a model, at 8 and 32 bits. Models of one shape share one."""
    twins = [other for other in MODELS.values() if other.shape == model.shape]
    path = folder / f"{twins[0].name.lower()}.store"
    try:
        Store.open(path).close()
    except FormatError:
        from host.package import PackageOptions, package  # noqa: PLC0415 - imports TensorFlow, which takes seconds

        sys.stderr.write(f"packaging {path.name} ...\n")
        source = folder / f"{twins[0].name.lower()}.model"
        write_random_bert(source, model.shape)
        sequences = tuple(sorted({sequence for other in twins for sequence in other.sequences}))
        options = PackageOptions((8, 32), None, sequences, name=f"{twins[0].name} (random weights)")
        package(str(source), path, options, lambda _stage, _done, _total: None)
    return path


if __name__ == "__main__":
    main()
