"""Which order of importance serves best: all shards at few bits, the first ones of the order raised to more.

    python -m benchmarks.importance STORE --train TRAIN.tsv --unseen UNSEEN.tsv --dev DEV.tsv --out FOLDER

Every order but that of dev accuracy is made from the texts of --train alone. Accuracy is that of the dev texts; the
loss (KL in nats against the model at its best) that of training texts that no order has seen. Seconds are this
process's, of one thread. What was measured is kept in FOLDER, so that a stopped run goes on.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from hashlib import sha1
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from host.profile.estimate import estimated_changes
from host.profile.jobs import Task, manifest_sha256, shard_key, start_process
from host.profile.losses import additive_losses, own_losses
from host.profile.measure import Bench
from host.profile.profiler import read_sample
from shard_store.geometry import ShardKey
from shard_store.reader import Store

Array = npt.NDArray[Any]
Order = npt.NDArray[np.intp]  # (shards,) the most important first
RANDOM_SEEDS = 3
ORDERS = (
    "exact", "estimate", "bottom-first", "random", "dev-accuracy", "shared", "raised-alone", "exact-and-raised",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """An order with its first shards raised; of random orders the mean."""

    order: str
    raised: int
    accuracy: float
    loss: float


class Kept:
    """Arrays in a folder, made when they are first asked for, with the processor seconds that took."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[], Any]) -> Array:
        """An array by name."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            start = time.process_time()
            values = np.asarray(make())
            np.savez(path, values=values, seconds=time.process_time() - start)
            print(f"{name}: {self.seconds(name):.1f} s", flush=True)
        with np.load(path) as arrays:
            return np.asarray(arrays["values"])

    def seconds(self, name: str) -> float:
        """What it took."""
        with np.load(self._folder / f"{name}.npz") as arrays:
            return float(arrays["seconds"])


class Study:
    """Raising shards of one store from `low` to `high` bits."""

    def __init__(self, train: Bench, unseen: Bench, dev: Bench, bits: tuple[int, int], kept: Kept) -> None:
        self._train, self._unseen, self._dev, self._kept = train, unseen, dev, kept
        self._bits = bits
        self.low, self.high = bits
        geometry = train.runner.geometry
        self.shards = range(geometry.layers * geometry.slices)

    def orders(self, name: str) -> list[Order]:
        """The order of that name; of random ones several."""
        shards = len(self.shards)
        made: dict[str, Callable[[], list[Order]]] = {
            "exact": lambda: [_first(self._gains("lowered"))],
            "estimate": lambda: [_first(self._gains("estimated"))],
            "shared": lambda: [_first(self._gains("lowered", shared_losses))],
            "raised-alone": lambda: [_first(-self._measured("raised"))],
            "exact-and-raised": lambda: [_first(self._gains("lowered") + self._raised_gains())],
            "bottom-first": lambda: [np.arange(shards)],
            "dev-accuracy": lambda: [_first(self._measured("raised_dev_accuracy"))],
            "random": lambda: [np.random.default_rng(seed).permutation(shards) for seed in range(RANDOM_SEEDS)],
        }
        return made[name]()

    def _measured(self, name: str) -> Array:
        makers: dict[str, Callable[[], Any]] = {
            "lowered": self._lowered,
            "estimated": self._estimated,
            "uniform": lambda: [self._train.quality.loss(self._train.runner.uniform(bits)) for bits in self._bits],
            "raised": lambda: [self._train.quality.loss(one) for one in self._raise_each(self._train)],
            "raised_dev_accuracy": lambda: [self._dev.quality.metric(one) for one in self._raise_each(self._dev)],
        }
        return self._kept.get(name, makers[name])

    def _gains(self, name: str, losses_of: Callable[[Array], Array] = own_losses) -> Array:
        """What a profile says that raising a shard from low to high gains: (shards,)"""
        raw = {row: losses_of(one) for row, one in enumerate(self._measured(name))}
        losses = additive_losses(raw, dict(enumerate(map(float, self._measured("uniform")))))
        return losses[0] - losses[1]

    def _raised_gains(self) -> Array:
        """The gains of raising each shard alone, brought to the sum that all together gain: (shards,)"""
        whole = self._measured("uniform")
        gains = (whole[0] - self._measured("raised")).clip(0)
        return np.asarray(gains * (whole[0] - whole[1]) / gains.sum())

    def facts(self) -> Iterator[str]:
        """Costs, and how alike the orders are."""
        whole = self._measured("uniform")
        likeness = _rank_correlation(self._gains("lowered"), self._gains("estimated"))
        cost = len(self._train.lower) / 2 * self._kept.seconds("lowered")
        yield f"loss at {self.low} and {self.high} bits: {whole[0]:.5f}, {whole[1]:.5f}"
        yield f"rank correlation of exact and estimate: {likeness:.3f}"
        yield (
            f"processor seconds at all bitwidths: exact {cost:.0f}, estimate {self._kept.seconds('estimated'):.0f}, "
            f"ratio {cost / self._kept.seconds('estimated'):.1f}"
        )

    def judge(self, order: Order, count: int) -> tuple[float, float]:
        """Dev accuracy and loss on unseen texts with the first shards of the order raised."""
        chosen = sorted(order[:count].tolist())
        name = f"judged_{count}_{sha1(str(chosen).encode(), usedforsecurity=False).hexdigest()[:10]}"
        found = self._kept.get(name, lambda: self._judge(set(chosen)))
        return float(found[0]), float(found[1])

    def _judge(self, raised: set[int]) -> tuple[float, float]:
        runners = (self._dev.runner, self._unseen.runner)
        geometry, states = runners[0].geometry, [runner.first for runner in runners]
        for layer in range(geometry.layers):
            numbers = range(layer * geometry.slices, (layer + 1) * geometry.slices)
            keys = [
                ShardKey(layer, index, self.high if number in raised else self.low)
                for index, number in enumerate(numbers)
            ]
            weights = runners[0].model.join(layer, [runners[0].model.slice_weights(key) for key in keys])
            states = [runner.step(before, weights) for runner, before in zip(runners, states, strict=True)]
        outputs = [runner.outputs(last) for runner, last in zip(runners, states, strict=True)]
        return self._dev.quality.metric(outputs[0]), self._unseen.quality.loss(outputs[1])

    def _lowered(self) -> Array:
        """Changes (2, shards, texts, n) of each shard alone at each of the two bitwidths, all others at the best."""
        bench = self._train
        keys = [
            [shard_key(bench.runner.geometry, shard, bits) for shard in self.shards] for bits in (self.low, self.high)
        ]
        return np.array([[bench.quality.changes(bench.runner.changed(bench.best, key)) for key in row] for row in keys])

    def _estimated(self) -> Array:
        """The same from gradients; they are made for all bitwidths of the store."""
        found = estimated_changes(self._train)
        return np.array([found[bits] for bits in (self.low, self.high)])

    def _raise_each(self, bench: Bench) -> Iterator[Any]:
        """Outputs with each shard alone raised, all others low, as the STI paper measures importance."""
        return (
            bench.runner.changed(self.low, shard_key(bench.runner.geometry, shard, self.high)) for shard in self.shards
        )


def main() -> None:
    """Compare the orders."""
    options = _parse()
    start_process()
    sources = ((options.train, 512), (options.unseen, options.unseen_texts), (options.dev, None))
    train, unseen, dev = (Bench.open(_task(options.store, data, limit)) for data, limit in sources)
    study = Study(train, unseen, dev, (options.low, options.high), Kept(options.out))
    rows = []
    for name in options.orders:
        orders = study.orders(name)
        for count in options.top:
            found = np.mean([study.judge(order, count) for order in orders], axis=0)
            rows.append(Row(name, count, float(found[0]), float(found[1])))
            print(*astuple(rows[-1]), sep="\t", flush=True)
    _write(rows, options.out / "importance.csv")
    print(_table(rows, options.top), *study.facts(), sep="\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("store", type=Path)
    for name in ("train", "unseen", "dev", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--low", type=int, default=2)
    parser.add_argument("--high", type=int, default=6)
    parser.add_argument("--top", type=int, nargs="+", default=[8, 16, 24])
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--unseen-texts", type=int, default=1024)
    return parser.parse_args()


def _task(path: Path, data: Path, limit: int | None) -> Task:
    with Store.open(path) as store:
        return Task(path.resolve(), manifest_sha256(store), read_sample(store, data, limit))


def shared_losses(changes: Array) -> Array:
    """Each shard's Shapley value in the second-order game in which all are lowered together: (shards,)"""
    flat = changes.reshape(len(changes), -1).astype(np.float64)  # (shards, texts * n)
    return np.asarray(0.5 * flat @ flat.sum(0) / changes.shape[1])


def _first(gains: Array) -> Order:
    return np.argsort(-gains, kind="stable")


def _rank_correlation(one: Array, other: Array) -> float:
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _write(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)


def _table(rows: Sequence[Row], tops: Sequence[int]) -> str:
    """Markdown: accuracy in percent, the losses, and their mean."""
    lines = [f"| order | accuracy at top {', '.join(map(str, tops))} | loss | mean loss |", "|---|---|---|---|"]
    for name in dict.fromkeys(row.order for row in rows):
        own = [row for row in rows if row.order == name]
        accuracies, losses = (
            " / ".join(texts)
            for texts in ([f"{100 * row.accuracy:.2f}" for row in own], [f"{row.loss:.4f}" for row in own])
        )
        lines.append(f"| {name} | {accuracies} | {losses} | {np.mean([row.loss for row in own]):.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
