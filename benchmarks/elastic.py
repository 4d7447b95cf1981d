"""The whole grid of `sti bench`: a real classifier and BERT-base's geometry, three flash speeds, two processor speeds.

Run `python -m benchmarks.elastic --store STORE --data DEV.tsv --out DIR`. The store needs a profile. Nothing else
should run on the machine meanwhile; the load that was found is in every result. A run that stopped goes on where it
was.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.random_model import BERT_BASE, sentence, write_random_bert
from host.bench.options import BenchOptions
from host.bench.results import BenchResult
from host.bench.run import bench
from host.bench.show import print_result
from host.display import progress_bar
from shard_store.errors import StiError
from shard_store.geometry import EXACT_BITWIDTH
from shard_store.manifest import Manifest
from shard_store.profile import Profile, ProfileMethod, first_layers
from shard_store.profile_writer import write_profile
from shard_store.reader import Store

FLASH_MB_S = (84.0, 200.0, 500.0)
CPU_PERCENT = (100.0, 25.0)
BERT_BITWIDTHS = (2, 4, 6, 8, 32)
BERT_SEQUENCE = 64
TARGETS = 4
REPEATS = 10
BERT_TARGETS = 3
BERT_REPEATS = 5
BERT_TEXTS = 40


def main() -> None:
    """Measure both stores. Exits 1 with one line for what the user can mend."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a packaged and profiled classifier; none: only BERT-base")
    parser.add_argument("--data", type=Path, help="its labelled texts, none of which it was trained or profiled with")
    parser.add_argument("--bert-store", type=Path, help="where the random BERT-base is or is to be (default: in --out)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu-percent", type=float, default=CPU_PERCENT[1], help="of a core, as slow as a phone's")
    parser.add_argument("--no-bert", action="store_true", help="only --store")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    try:
        run(options)
    except StiError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def run(options: argparse.Namespace) -> None:
    """The classifier first, then the geometry."""
    asked = BenchOptions(
        flash_mb_s=FLASH_MB_S, cpu_percent=(CPU_PERCENT[0], options.cpu_percent), targets=TARGETS, repeats=REPEATS
    )
    if options.store:
        measure(options.store, options.data, options.out / "classifier", asked, quick=options.quick)
    if not options.no_bert:
        store = options.bert_store or options.out / "bert-base.store"
        texts = options.out / "bert-base.tsv"
        make_bert(store, texts)
        asked = replace(asked, repeats=BERT_REPEATS, targets=BERT_TARGETS)
        measure(store, texts, options.out / "bert-base", asked, quick=options.quick)


def measure(store: Path, data: Path, out: Path, options: BenchOptions, *, quick: bool) -> BenchResult:
    """One bench, its tables and how long it took."""
    started = time.monotonic()
    with progress_bar() as progress:
        result = bench(store, data, out, options.quick() if quick else options, progress)
    print_result(result, out)
    print(f"{time.monotonic() - started:.0f} s, load {result.environment.load[0]:.2f} at the start")
    return result


def make_bert(store: Path, texts: Path) -> None:
    """A store of BERT-base's sizes with random weights and a made-up profile, and texts of its bucket's length."""
    if not store.exists():
        from host.package import PackageOptions, package  # noqa: PLC0415 - imports TensorFlow

        model = store.with_suffix(".model")
        write_random_bert(model, BERT_BASE)
        named = PackageOptions(BERT_BITWIDTHS, None, (BERT_SEQUENCE,), name="BERT-base (random weights)")
        with progress_bar() as progress:
            package(str(model), store, named, progress)
    with Store.open(store) as opened:
        manifest = opened.manifest
    if manifest.profile is None:
        write_profile(store, made_up_profile(manifest))
    texts.parent.mkdir(parents=True, exist_ok=True)
    texts.write_text("".join(f"{sentence(BERT_SEQUENCE - number % 8)}\t0\n" for number in range(BERT_TEXTS)))


def made_up_profile(manifest: Manifest) -> Profile:
    """More layers, slices and bits are better, lower layers matter more: enough to plan by, and no more than that."""
    geometry = manifest.geometry
    depths, widths = range(1, geometry.layers + 1), range(1, geometry.slices + 1)

    def submodel(depth: int, width: int) -> float:
        return (1 - depth / geometry.layers) ** 2 + (1 - width / geometry.slices) ** 2

    def shard(bits: int, layer: int) -> float:
        return 0.0 if bits == EXACT_BITWIDTH else 4.0 ** (1 - bits) * (1 - layer / (2 * geometry.layers))

    return Profile(
        metric="cosine", samples=1, data_sha256="0" * 64, method=ProfileMethod.ESTIMATE,
        metrics=tuple(tuple(1 - submodel(depth, width) / 2 for width in widths) for depth in depths),
        submodel_loss=tuple(tuple(submodel(depth, width) for width in widths) for depth in depths),
        shard_loss={
            bits: tuple((shard(bits, layer),) * geometry.slices for layer in range(geometry.layers))
            for bits in manifest.bitwidths
        },
        layer_choices=first_layers(geometry.layers),
    )  # fmt: skip


if __name__ == "__main__":
    main()
