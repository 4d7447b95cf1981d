"""What a depth and width can reach at best, tabulated once: so that most candidates are dismissed unseen."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.planning.batch import rising
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import Ladder, Steps
from device_agent.planning.options import Floats, Indices
from device_agent.planning.schedule import Way

_KNOTS = 64
_FEW_ROWS = 64  # below, comparing all knots is quicker than searching row by row


@dataclass(frozen=True, slots=True)
class Table:
    """Of one cell. Rows: how many of the first layers need no read."""

    stored_bytes: Indices  # (bitwidths, layers + 1): of the first layers, as stored
    stored_loss: Floats  # (bitwidths, layers + 1)
    least_loss: Floats  # (layers + 1,): of the first layers, at their best
    load_ms: Floats  # (layers + 1, knots): transfer and prepare of the shards of the others, by rising level
    transfer_ms: Floats  # (layers + 1, knots)
    prepare_ms: Floats  # (layers + 1, knots)
    loss: Floats  # (layers + 1, knots)


def table_of(cell: Cell, steps: Steps) -> Table:
    """Tabulate a cell. steps: shard by shard."""
    layers, options = list(cell.layers), cell.options
    ladder = Ladder(options, steps, cell.layers, cell.slices)
    knots = np.linspace(0, ladder.top, _KNOTS).astype(np.intp)
    sums = (ladder.load_ms, ladder.transfer_ms, ladder.losses)
    load_ms, transfer_ms, loss = (_without_first(levels[knots]) for levels in sums)
    return Table(
        stored_bytes=_first(options.nbytes[layers, : cell.slices].sum(axis=1).T.astype(np.float64)).astype(np.intp),
        stored_loss=_first(options.loss[layers, : cell.slices].sum(axis=1).T),
        least_loss=_first(options.least_loss[layers, cell.slices - 1]),
        load_ms=load_ms,
        transfer_ms=rising(transfer_ms.T).T,
        prepare_ms=rising(load_ms.T - transfer_ms.T).T,
        loss=loss,
    )


def _first(values: Floats) -> Floats:
    """Sums of the first 0, 1, ... along the last axis."""
    sums = np.zeros((*values.shape[:-1], values.shape[-1] + 1), values.dtype)
    np.cumsum(values, axis=-1, out=sums[..., 1:])
    return sums


def _without_first(levels: Floats) -> Floats:
    """(levels, layers) -> (layers + 1, levels): sums over all layers but the first 0, 1, ..."""
    return np.ascontiguousarray(_first(levels[:, ::-1])[:, ::-1].T)


def candidates(
    facts: Facts, cell: Cell, table: Table, way: Way, limit_ms: float, *,
    room_bytes: Indices, taken_bytes: Indices, less_than: float,
) -> Iterator[tuple[float, Kept]]:  # fmt: skip
    """What may stay in memory, with a lower bound of the loss, least first, and more ready layers first.

    room_bytes: for stored layers, by how many are ready, negative if those do not fit; taken_bytes: the same with more
    agents, which do as well with whatever then fits.
    """
    first, number, which = _all_kept(len(cell.layers), table, room_bytes, taken_bytes)
    loss = table.least_loss[first] + table.stored_loss[which, number] - table.stored_loss[which, first]
    loss += cell.submodel_loss
    likely = np.flatnonzero(loss < less_than)
    first, number, which, loss = first[likely], number[likely], which[likely], loss[likely]
    loss += _streamed_loss(facts, cell, table, way, limit_ms, ready=first, count=number, option=which)
    chosen = np.flatnonzero(loss < less_than)
    for place in chosen[np.lexsort((-first[chosen], loss[chosen]))].tolist():
        resident = int(first[place])
        yield float(loss[place]), Kept(cell, resident, int(number[place]) - resident, int(which[place]))


def _all_kept(depth: int, table: Table, room_bytes: Indices, taken_bytes: Indices) -> tuple[Indices, Indices, Indices]:
    """What fits: how many are ready, how many need no read, and the option of those between."""
    if not room_bytes.max() > 0:
        ready = np.flatnonzero((room_bytes >= 0) & (taken_bytes < 0))
        return ready, ready, np.zeros(len(ready), np.intp)
    first = np.flatnonzero(room_bytes >= 0)[:, None, None]  # (readies, 1, 1)
    count = np.arange(depth + 1)[None, :, None]
    option = np.arange(len(table.stored_bytes))[None, None, :]
    stored = table.stored_bytes[option, count] - table.stored_bytes[option, first]
    fits = (stored <= room_bytes[first]) & (stored > taken_bytes[first])
    fits &= (count > first) | ((count == first) & (option == 0))
    index, number, which = np.nonzero(fits)
    return first[index, 0, 0], number, which


def _streamed_loss(
    facts: Facts, cell: Cell, table: Table, way: Way, limit_ms: float, *,
    ready: Indices, count: Indices, option: Indices,
) -> Floats:  # fmt: skip
    """The least that the layers after the first `count` lose, by their sums; infinite if they take too long."""
    costs, depth, execute_ms = facts.costs, len(cell.layers), cell.execute_ms
    latency_ms, layer_ms = costs.read.latency_ms, costs.prepare[cell.options.kind].layer_ms
    streamed = depth - count
    shard_ms = costs.prepare[cell.options.kind].shard_ms
    stored_ms = np.array([layer_ms + cell.slices * shard_ms[b] for b in cell.options.key])[option] * (count - ready)
    loading_ms: npt.NDArray[np.floating] = np.minimum(
        way.agents * (limit_ms - execute_ms), way.in_flight * limit_ms - (depth - ready) * execute_ms
    )
    if way.loading_factor > 1.0:
        slowed_ms = (limit_ms - depth * execute_ms) / (1.0 - 1.0 / way.loading_factor)
        loading_ms = np.minimum(loading_ms, way.agents * slowed_ms)
    knot = _knots_within(table.load_ms, count, loading_ms - stored_ms - streamed * (latency_ms + layer_ms))
    if way.agents > 1 and not cell.fine:
        reading_ms = limit_ms - execute_ms - layer_ms - streamed * latency_ms
        preparing_ms = way.lanes * (limit_ms - execute_ms) - stored_ms - streamed * layer_ms
        knot = np.minimum(knot, _knots_within(table.transfer_ms, count, reading_ms))
        knot = np.minimum(knot, _knots_within(table.prepare_ms, count, preparing_ms))
    loss = table.loss[count, np.minimum(knot, table.loss.shape[1] - 1)]
    return np.where(streamed == 0, 0.0, np.where(knot == 0, np.inf, loss))


def _knots_within(levels: Floats, rows: Indices, limits: npt.NDArray[np.floating]) -> Indices:
    """How many knots of these rows are within each limit."""
    if len(rows) <= _FEW_ROWS:
        within: Indices = (levels[rows] <= limits[:, None]).sum(axis=1)
        return within
    found = np.empty(len(rows), np.intp)
    for row in np.unique(rows).tolist():
        here = rows == row
        found[here] = np.searchsorted(levels[row], limits[here], side="right")
    return found
