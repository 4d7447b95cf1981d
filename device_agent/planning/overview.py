"""All depths and widths at a glance, cut after every number of layers: what each holds, and can lose at least."""

from collections.abc import Sequence

import numpy as np

from device_agent.planning.ask import Ask
from device_agent.planning.cell import Cell
from device_agent.planning.facts import Facts
from device_agent.planning.options import Floats, Indices
from device_agent.planning.table import Table

_SAME_MS = 1e-9  # sums in another order
Counts = Indices | int


class Overview:
    """The table of all cuts, for one sequence and number of texts. Arrays are (cuts,)."""

    def __init__(self, facts: Facts, cells: Sequence[Cell], table: Table) -> None:
        self.facts, self.cells, self.table = facts, cells, table
        memory = [cell.memory for cell in cells]
        self.execute_ms = np.array([cell.execute_ms for cell in cells])[table.cell]
        self._ready_bytes = np.array([layer.ready_bytes for layer in memory])[table.cell]
        self._loading_bytes = np.array([layer.loading_bytes for layer in memory])[table.cell]
        self._in_place = np.array([layer.in_place for layer in memory])[table.cell]
        agent_bytes = [facts.agent_bytes[cell.options.kind, cell.slices] for cell in cells]
        self._agent_bytes = np.array(agent_bytes)[table.cell]
        self._least_kept_bytes = _summed_by_cell(self._least_bytes_of_last(), table.count)
        stored_ms = np.zeros((len(cells), table.stored_bytes.shape[1]))
        for cell, row in zip(cells, stored_ms, strict=True):
            row[: len(cell.options.bitwidths)] = facts.costs.prepare[cell.options.kind].layer_ms
            row[: len(cell.options.bitwidths)] += cell.options.prepare_ms[0, 0] * cell.slices
        self.stored_ms = stored_ms  # (cells, bitwidths): to prepare a layer that is kept as stored

    def _least_bytes_of_last(self) -> Floats:
        """Of the last layer before the cut, ready to run or as stored."""
        stored = np.diff(self.table.stored_bytes, axis=0, prepend=0.0).min(axis=1)
        return np.where(self.table.count > 0, np.minimum(stored, self._ready_bytes), 0.0)

    def held_bytes(self, ask: Ask, cuts: Indices, ready: Indices, agents: Counts, in_flight: Counts) -> Indices:
        """What is held at most beside layers as stored, if so many are ready to run, as Footprint.peak_bytes counts.

        Layers that pass in place need no unpacked weights; those that stay are unpacked once, and take the place of
        one that passes.
        """
        depth = self.table.depth[cuts]
        passing, most = np.minimum(in_flight, depth - ready), np.minimum(in_flight, depth)
        loading = self._loading_bytes[cuts] * np.minimum(agents, most)
        learning = np.where(np.equal(in_flight, 1), np.maximum(0, loading - self._agent_bytes[cuts]), 0)
        in_place = self._in_place[cuts] & (passing == most) & (np.greater(in_flight, 1) | (ready == 0))
        unpacked = np.where(in_place, learning, loading)
        base = self._base_bytes(ask) + self._agent_bytes[cuts] * agents
        held: Indices = base + (ready + passing) * self._ready_bytes[cuts] + unpacked
        return held

    def room_bytes(self, ask: Ask, cuts: Indices, ready: Indices, agents: Counts, in_flight: Counts) -> Indices:
        """Room for layers as stored; negative if those that are ready to run do not fit."""
        room = ask.budget_bytes - self.held_bytes(ask, cuts, ready, agents, in_flight)
        if not ask.residency:
            room = np.where(ready > 0, -1, np.minimum(room, 0))  # nothing may stay
        if ask.preload_bytes is not None:
            left = ask.preload_bytes - ready * self._ready_bytes[cuts]
            room = np.minimum(room, np.where(room >= 0, left, room))
        return room

    def _base_bytes(self, ask: Ask) -> int:
        return self.facts.fixed_bytes + ask.texts * self.facts.text_bytes[ask.sequence]

    def bounds(self, ask: Ask, limit_ms: float, agents: int, in_flight: int) -> Floats:
        """The least loss of each cut's ladders, with at most so many agents and layers in flight: (rows,).

        Infinite if nothing is within limit and budget. The layers before the cut are kept in whatever way.
        """
        table = self.table
        bounds = np.full((2, len(table.cell)), np.inf)
        computing = (table.depth * self.execute_ms <= limit_ms) & np.isfinite(self.execute_ms)
        cuts = np.flatnonzero(computing & (self._least_bytes(ask) <= ask.budget_bytes))
        if not ask.residency:
            cuts = cuts[table.count[cuts] == 0]
        none = np.zeros(len(cuts))
        for ladder in range(2):
            rows = ladder * len(table.cell) + cuts
            loss, _ = self.streamed(
                rows, limit_ms, ready=table.count[cuts], stored_ms=none, agents=agents, in_flight=in_flight
            )
            bounds[ladder, cuts] = table.kept_loss[cuts] + loss
        return bounds.ravel()

    def _least_bytes(self, ask: Ask) -> Floats:
        """The least that is held, each layer before the cut ready to run or as stored at the fewest bytes."""
        passing = np.where(self.table.count < self.table.depth, self._ready_bytes, 0)
        unpacked = np.where(self._in_place, 0, self._loading_bytes)
        held: Floats = self._base_bytes(ask) + self._agent_bytes + unpacked + passing + self._least_kept_bytes
        return held

    def streamed(
        self, rows: Indices, limit_ms: float, *, ready: Indices, stored_ms: Floats, agents: Counts, in_flight: Counts,
    ) -> tuple[Floats, Indices]:  # fmt: skip
        """The least that the layers after the cut lose, and how many knots of the ladder are within the limit.

        ready: layers that are not loaded; stored_ms: to prepare those that are not read.
        """
        table, factor = self.table, self.facts.costs.loading_factor
        cuts = rows % len(table.cell)
        depth, execute_ms = table.depth[cuts], self.execute_ms[cuts]
        limit_ms += _SAME_MS
        left_ms = limit_ms - execute_ms  # before the last execution
        load_ms = np.minimum(agents * left_ms, in_flight * limit_ms - (depth - ready) * execute_ms)
        if factor > 1.0:
            load_ms = np.minimum(load_ms, agents * (limit_ms - depth * execute_ms) / (1.0 - 1.0 / factor))
        prepare_ms = self.facts.prepare_lanes * left_ms - stored_ms
        knots = table.knots_within(rows, load_ms - stored_ms, left_ms, prepare_ms)
        return table.least_loss(rows, knots), knots


def _summed_by_cell(values: Floats, count: Indices) -> Floats:
    """Sums over the cuts of a cell up to each: (cuts,)."""
    sums = np.cumsum(values)
    summed: Floats = sums - sums[np.arange(len(count)) - count]
    return summed
