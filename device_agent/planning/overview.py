"""All depths and widths at a glance: the least that each can lose under a target and a budget, in one sweep."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.options import Floats, Indices
from device_agent.planning.table import Table

_SAME = 1e-9  # sums in another order


@dataclass(frozen=True, slots=True)
class Room:
    """What a question allows, at the most."""

    limit_ms: float  # for the layers
    budget_bytes: int
    activation_bytes: int
    residency: bool
    agents: int  # the most that are tried


class Overview:
    """Bounds of all cells together. Arrays are (cells, layers + 1, knots) unless they say otherwise."""

    def __init__(self, facts: Facts, cells: Sequence[Cell], tables: Sequence[Table]) -> None:
        self.cells, self.tables = cells, tables
        self._facts = facts
        rows = 1 + max(len(cell.layers) for cell in cells)
        self._load_ms = np.stack([_padded(table.load_ms, rows, np.inf) for table in tables])
        pairs = list(zip(cells, tables, strict=True))
        transfer = [np.where(cell.fine, 0.0, table.transfer_ms) for cell, table in pairs]  # exchanges may read less
        self._transfer_ms = np.stack([_padded(values, rows, np.inf) for values in transfer])
        self._loss = np.stack([_padded(table.loss, rows, np.inf) for table in tables])
        kept = [cell.submodel_loss + table.least_loss for cell, table in pairs]
        self._kept_loss = np.stack([_padded(values[:, None], rows, np.inf)[:, 0] for values in kept])
        stored = [table.stored_bytes.min(axis=0).astype(np.float64) for table in tables]
        self._stored_bytes = np.stack([_padded(values[:, None], rows, np.inf)[:, 0] for values in stored])
        self.computing_ms = np.array([cell.execute_ms * len(cell.layers) for cell in cells])
        self._depth = np.array([len(cell.layers) for cell in cells])[:, None]
        self._execute_ms = np.array([cell.execute_ms for cell in cells])[:, None]
        self._ready_bytes = np.array([cell.memory.ready_bytes for cell in cells])[:, None]
        self._base_bytes = np.array([_base_bytes(facts, cell) for cell in cells])[:, None]
        self._layer_ms = np.array([facts.costs.prepare[cell.options.kind].layer_ms for cell in cells])[:, None]

    def bounds(self, room: Room) -> Floats:
        """The least loss of each cell, infinite if it cannot be within the limit: (cells,)."""
        count = np.arange(self._loss.shape[1])[None]  # that need no read
        streamed = self._depth - count
        latency_ms = self._facts.costs.read.latency_ms * streamed
        left_ms = room.limit_ms - self._execute_ms + _SAME
        loading_ms = room.agents * left_ms - streamed * self._layer_ms - latency_ms
        knots = self._load_ms <= loading_ms[:, :, None]
        knots &= self._transfer_ms <= (left_ms - self._layer_ms - latency_ms)[:, :, None]
        within = knots.sum(axis=2)
        last = self._loss.shape[2] - 1
        loss = np.take_along_axis(self._loss, np.minimum(within, last)[:, :, None], axis=2)[:, :, 0]
        loss = np.where(streamed == 0, 0.0, np.where(within == 0, np.inf, loss)) + self._kept_loss
        least: Floats = np.where(self._fits(room, count), loss, np.inf).min(axis=1)
        return np.where(self.computing_ms <= room.limit_ms, least, np.inf)

    def _fits(self, room: Room, count: Indices) -> npt.NDArray[np.bool_]:
        """Whether so many layers can be kept, as stored at the lowest bitwidth or ready: (cells, layers + 1)."""
        base = self._base_bytes + room.activation_bytes
        held = np.minimum(self._stored_bytes + self._ready_bytes, np.maximum(count, 1) * self._ready_bytes)
        fits: npt.NDArray[np.bool_] = (base + held <= room.budget_bytes) & (
            count <= (self._depth if room.residency else 0)
        )
        return fits


def _base_bytes(facts: Facts, cell: Cell) -> int:
    """The least that is held beside layers and activations."""
    loading_bytes = 0 if cell.memory.in_place else cell.memory.loading_bytes
    return facts.fixed_bytes + facts.agent_bytes[cell.options.kind, cell.slices] + loading_bytes


def _padded(values: Floats, rows: int, fill: float) -> Floats:
    padded = np.full((rows, values.shape[1]), fill)
    padded[: len(values)] = values
    return padded
