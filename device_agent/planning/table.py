"""What every depth and width can reach at best, tabulated once: so that most candidates are dismissed unseen.

A cut is a depth and width, and how many of its first layers need no read: the others, after the cut, are streamed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.planning.batch import rising
from device_agent.planning.cell import has_few_shards
from device_agent.planning.ladder import Ladder
from device_agent.planning.options import Floats, Indices, Options
from shard_store.profile import Profile

_HALVINGS = 6
KNOTS = 1 << _HALVINGS
_NEVER = 1e15  # more bytes and loss than anything allows


@dataclass(frozen=True, slots=True)
class Sort:
    """Bitwidths that may mix, and their ladders by width: shard by shard, and by whole layers."""

    options: Options
    ladders: tuple[tuple[Ladder, Ladder], ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Of all cuts, ordered by sort of bitwidths, width, depth and layers without a read.

    Rows are those cuts twice, once for each ladder. Times are lower bounds that hold for a knot's level and all above;
    losses are lower bounds for all levels that are below the knot, except the last knot's.
    """

    ladders: tuple[tuple[Ladder, ...], ...]  # [ladder][cell]
    cell: Indices  # (cuts,): sort, width and depth, counted in this order
    depth: Indices  # (cuts,)
    count: Indices  # (cuts,): layers that need no read
    kept_loss: Floats  # (cuts,): of the submodel, and of those layers at their best
    stored_bytes: Floats  # (cuts, bitwidths): of those layers as stored; a great many for bitwidths of other sorts
    stored_loss: Floats  # (cuts, bitwidths)
    load_ms: Floats  # (rows, knots): reads and preparation of all streamed layers
    read_ms: Floats  # (rows, knots)
    prepare_ms: Floats  # (rows, knots)
    loss: Floats  # (rows, knots)

    def knots_within(self, rows: Indices, load_ms: Floats, read_ms: Floats, prepare_ms: Floats) -> Indices:
        """How many of the knots but the last keep all limits: (rows,)."""
        loads = _within(self.load_ms, rows, load_ms)
        reads, prepares = _within(self.read_ms, rows, read_ms), _within(self.prepare_ms, rows, prepare_ms)
        return np.minimum(loads, np.minimum(reads, prepares))

    def least_loss(self, rows: Indices, knots: Indices) -> Floats:
        """The least that the streamed layers lose if so many knots are within the limits: (rows,)."""
        return np.where(knots > 0, self.loss[rows, knots], np.inf)


def stop_of(ladder: Ladder, knots: int) -> int:
    """From this level on, nothing is within the limits that so many knots are within."""
    return ladder.top + 1 if knots >= KNOTS - 1 else int(_knots(ladder)[knots])


def _knots(ladder: Ladder) -> Indices:
    return np.linspace(0, ladder.top, KNOTS).astype(np.intp)


def _within(levels: Floats, rows: Indices, limits: Floats) -> Indices:
    """How many knots but the last of these rows, which rise, are within each limit: by halving."""
    flat, first = levels.reshape(-1), rows * KNOTS
    found = np.zeros(len(rows), np.intp)
    for halving in reversed(range(_HALVINGS)):
        half = 1 << halving
        found += half * (flat[first + found + (half - 1)] <= limits)
    return found


def table_of(profile: Profile, sorts: Sequence[Sort]) -> Table:
    """Tabulate all cuts of these sorts."""
    choices, widths = profile.layer_choices, len(sorts[0].ladders)
    depth = np.array([len(layers) for layers in choices for _ in range(len(layers) + 1)])
    count = np.concatenate([np.arange(len(layers) + 1) for layers in choices])
    streamed, kept = np.zeros((2, len(depth), len(profile.submodel_loss)))
    for cut, (of, first) in enumerate(zip(depth.tolist(), count.tolist(), strict=True)):
        streamed[cut, list(choices[of - 1][first:])] = kept[cut, list(choices[of - 1][:first])] = 1.0
    fine = np.array([[has_few_shards(of, slices) for of in depth.tolist()] for slices in range(1, widths + 1)])
    submodel = np.array(profile.submodel_loss)[depth - 1].T  # (widths, cuts of a width)
    most = max(len(sort.options.bitwidths) for sort in sorts)
    sums = np.empty((4, 2, len(sorts), widths, len(depth), KNOTS))
    for ladder in range(2):
        for index, sort in enumerate(sorts):
            _sum_up(sort, ladder, streamed, fine, out=sums[:, ladder, index])
    load_ms, read_ms, prepare_ms, loss = sums.reshape(4, -1, KNOTS)
    times = len(sorts) * widths
    return Table(
        ladders=tuple(
            tuple(pair[ladder] for sort in sorts for pair in sort.ladders for _ in choices) for ladder in range(2)
        ),
        cell=(np.arange(times)[:, None] * len(choices) + depth - 1).ravel(),
        depth=np.tile(depth, times),
        count=np.tile(count, times),
        kept_loss=np.concatenate([(submodel + (kept @ sort.options.least_loss).T).ravel() for sort in sorts]),
        stored_bytes=np.concatenate([_stored(sort.options.nbytes, kept, most) for sort in sorts]),
        stored_loss=np.concatenate([_stored(sort.options.loss, kept, most) for sort in sorts]),
        load_ms=load_ms, read_ms=read_ms, prepare_ms=prepare_ms, loss=loss,
    )  # fmt: skip


def _stored(values: npt.NDArray[np.generic], kept: Floats, most: int) -> Floats:
    """Sums of (layers, slices, bitwidths) over the kept layers and the first slices: (cuts, bitwidths)."""
    by_width = np.cumsum(values.astype(np.float64), axis=1)
    sums: Floats = np.einsum("cl,lsb->scb", kept, by_width)
    padded: Floats = np.full((*sums.shape[:2], most), _NEVER) * kept.sum(axis=1)[:, None]
    padded[..., : sums.shape[2]] = sums
    return padded.reshape(-1, most)


def _sum_up(sort: Sort, which: int, streamed: Floats, fine: npt.NDArray[np.bool_], out: Floats) -> None:
    """Times to load, read and prepare, and losses, of one ladder of each width: (4, widths, cuts, knots)."""
    ladders = [pair[which] for pair in sort.ladders]
    own = [ladder.taken[_knots(ladder)] for ladder in ladders]
    below = [ladder.taken[_below(_knots(ladder))] for ladder in ladders]
    loads = [ladder.loads for ladder in ladders]
    losses = [ladder.loss for ladder in ladders]
    _sum(streamed, [rising(load.read_ms + load.prepare_ms) for load in loads], own, out[0])
    _sum(streamed, [rising(load.read_ms) for load in loads], own, out[1])
    _sum(streamed, [rising(load.prepare_ms) for load in loads], own, out[2])
    _sum(streamed, losses, below, out[3])
    if fine.any():  # alternatives around a level may need fewer reads, and prepare quicker
        out[0, fine] = _sum(streamed, [ladder.least_load_ms for ladder in ladders], own)[fine]
        out[1:3, fine] = 0.0
        out[3, fine] = _sum(streamed, losses, own)[fine]


def _sum(streamed: Floats, values: Sequence[Floats], own: Sequence[Indices], out: Floats | None = None) -> Floats:
    """Sums over streamed layers of values by own steps, at the own steps of knots: (widths, cuts, knots)."""
    layers = np.arange(streamed.shape[1])
    at_knots = np.stack([steps[taken, layers].T for steps, taken in zip(values, own, strict=True)])
    summed: Floats = np.matmul(streamed, at_knots, out=out)
    return summed


def _below(knots: Indices) -> Indices:
    """The levels just below knots, and the last of all."""
    below = np.maximum(knots - 1, 0)
    below[-1] = knots[-1]
    return below
