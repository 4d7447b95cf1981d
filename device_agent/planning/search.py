"""One question under way: IO planning for one depth and width after the other (STI, section 5.3, extended).

A candidate is a depth and width, a way through the pipeline, what stays in memory, and a level of a ladder. Target and
budget only decide which candidates are allowed, never which there are, so a larger one never answers worse. Bounds
leave most of them unseen, and never the best.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from device_agent.plan import Plan
from device_agent.planning.ask import Ask
from device_agent.planning.cell import Cell
from device_agent.planning.climb import Climb
from device_agent.planning.facts import Facts
from device_agent.planning.kept import Kept
from device_agent.planning.ladder import Steps
from device_agent.planning.options import Indices
from device_agent.planning.overview import Room
from device_agent.planning.schedule import Way
from device_agent.planning.table import Table, candidates

MOST_AGENTS = 4  # one reads, and one prepares in every lane
SAME_LOSS = 1e-12
_LEVELS_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate that keeps target and budget."""

    loss: float
    total_ms: float  # of the layers
    plan: Plan


class Search:
    """The best candidate so far, and how to look for better ones."""

    def __init__(self, facts: Facts, ask: Ask, limit_ms: float) -> None:
        self.facts, self.ask, self.limit_ms = facts, ask, limit_ms
        self.best: Found | None = None

    def hopeless(self, loss: float) -> bool:
        """No candidate that loses at least so much is of interest."""
        return self.best is not None and loss > self.best.loss + SAME_LOSS

    def no_better(self, loss: float) -> bool:
        """As hopeless, and as much is of no interest either."""
        return self.best is not None and loss >= self.best.loss - SAME_LOSS

    @property
    def room(self) -> Room:
        """What the question allows, at the most."""
        ask = self.ask
        agents = ask.loading_agents or min(MOST_AGENTS, self.facts.prepare_lanes + 1)
        activation_bytes = ask.texts * self.facts.text_bytes[ask.sequence]
        return Room(self.limit_ms, ask.budget_bytes, activation_bytes, ask.residency, agents)

    def explore(self, cell: Cell, table: Table, all_steps: tuple[Steps, ...]) -> None:
        """Look for better candidates whose layers are either ready or streamed."""
        climbs: dict[int, list[Climb]] = {}
        for way, more in self._ways(cell):
            room_bytes = np.minimum(self._room_bytes(cell, way), 0)
            taken_bytes = np.minimum(self._room_bytes(cell, more), 0) if more else np.full_like(room_bytes, -1)
            found = self._candidates(cell, table, way, room_bytes, taken_bytes)
            self._try_all(found, way, all_steps, climbs)

    def explore_preloaded(self, cell: Cell, table: Table, all_steps: tuple[Steps, ...]) -> None:
        """Look for better candidates that keep layers as stored, too: more of those fit. One agent, few in flight."""
        climbs: dict[int, list[Climb]] = {}
        for way, _ in self._ways(cell):
            if way.agents == (self.ask.loading_agents or 1) and way.in_flight <= (self.ask.layers_in_flight or 2):
                room_bytes = self._room_bytes(cell, way)
                found = self._candidates(cell, table, way, room_bytes, np.minimum(room_bytes, 0))
                self._try_all(found, way, all_steps[:1], climbs)

    def _candidates(
        self, cell: Cell, table: Table, way: Way, room_bytes: Indices, taken_bytes: Indices
    ) -> Iterator[tuple[float, Kept]]:
        less_than = self.best.loss + 2 * SAME_LOSS if self.best else np.inf
        return candidates(
            self.facts, cell, table, way, self.limit_ms,
            room_bytes=room_bytes, taken_bytes=taken_bytes, less_than=less_than,
        )  # fmt: skip

    def _try_all(
        self, found: Iterator[tuple[float, Kept]], way: Way, all_steps: tuple[Steps, ...],
        climbs: dict[int, list[Climb]],
    ) -> None:  # fmt: skip
        for tried, (loss, kept) in enumerate(found):
            if self.hopeless(loss) or (tried and self.no_better(loss)):
                break
            if kept.count not in climbs:
                climbs[kept.count] = [Climb(self.facts, kept.cell, steps, kept.count) for steps in all_steps]
            for climb in climbs[kept.count]:
                self._climb(climb, way, kept)

    def _ways(self, cell: Cell) -> Iterator[tuple[Way, Way | None]]:
        """Agents and layers in flight to try, each with the way of one agent more if that never takes longer."""
        ask, depth, lanes, costs = self.ask, len(cell.layers), self.facts.prepare_lanes, self.facts.costs
        most_in_flight = min(MOST_AGENTS, lanes + 1) + 1
        in_flights = [ask.layers_in_flight] if ask.layers_in_flight else range(1, min(most_in_flight, depth) + 1)
        for in_flight in in_flights:
            more = None
            most_agents = min(MOST_AGENTS, lanes + 1, in_flight)
            for agents in [ask.loading_agents] if ask.loading_agents else range(most_agents, 0, -1):
                way = Way(agents, in_flight, lanes, costs.loading_factor, crowding_factor=costs.crowding_factor)
                yield way, more if more and more.prepare_factor == way.prepare_factor else None
                more = way

    def _room_bytes(self, cell: Cell, way: Way) -> Indices:
        """Room for stored layers, by how many are ready to run; negative if those alone do not fit. (layers + 1,)."""
        depth, ask = len(cell.layers), self.ask
        ready = np.arange(depth + 1)
        passing = np.minimum(way.in_flight, depth - ready)
        held = (ready + passing) * cell.memory.ready_bytes + self._unpacked_bytes(cell, way, passing)
        room = ask.budget_bytes - self.base_bytes(cell, way) - held
        if not ask.residency:
            room = np.minimum(room, 0)  # nothing may stay
            room[1:] = -1
        if ask.preload_bytes is not None:
            room = np.minimum(room, np.where(room >= 0, ask.preload_bytes - ready * cell.memory.ready_bytes, room))
        return room

    def most_resident(self, cell: Cell, way: Way) -> int:
        """How many layers may stay ready to run; -1 if not even streaming fits."""
        fits = np.flatnonzero(self._room_bytes(cell, way) >= 0)
        return int(fits[-1]) if len(fits) else -1

    def base_bytes(self, cell: Cell, way: Way) -> int:
        """What is held whatever the residency."""
        base = self.facts.fixed_bytes + self.ask.texts * self.facts.text_bytes[self.ask.sequence]
        return base + self.facts.agent_bytes[cell.options.kind, cell.slices] * way.agents

    def streaming_bytes(self, cell: Cell, way: Way) -> int:
        """What is held at most if nothing stays."""
        passing = np.array([min(way.in_flight, len(cell.layers))])
        held = passing * cell.memory.ready_bytes + self._unpacked_bytes(cell, way, passing)
        return self.base_bytes(cell, way) + int(held[0])

    def _unpacked_bytes(self, cell: Cell, way: Way, passing: Indices) -> Indices:
        """Unpacked weights beside packed ones, by how many layers pass at a time: as Footprint.peak_bytes counts them.

        Layers that pass in place need none; those that stay are unpacked once, and take the place of one that passes.
        """
        loading = cell.memory.loading_bytes * min(way.agents, way.in_flight, len(cell.layers))
        if not cell.memory.in_place:
            return np.full_like(passing, loading)
        streamed = passing == passing[0]  # as many as there is room for
        agent_bytes = self.facts.agent_bytes[cell.options.kind, cell.slices]
        learning = max(0, loading - agent_bytes) if way.in_flight == 1 else 0
        alone = np.arange(len(passing)) == 0
        return np.where(streamed & ((way.in_flight > 1) | alone), learning, loading)

    def _climb(self, climb: Climb, way: Way, kept: Kept) -> None:
        """Take the best levels that keep the target."""
        known = kept.loss
        for bound in (climb.highest, climb.highest_nested):
            level = bound(way, self.limit_ms)
            if level < 0 or self.hopeless(known + climb.least_loss(level)):
                return
        sharp = False
        while level >= 0 and not self.hopeless(known + climb.least_loss(level)):
            start = max(0, level + 1 - _LEVELS_AT_ONCE)
            chosen = climb.ladder.at_levels(start, level + 1)
            ends = climb.ends(chosen, way, kept)
            within = np.flatnonzero(ends <= self.limit_ms)
            if len(within):
                row = int(within[-1])
                self._take(
                    climb, way, kept, chosen[row], known + float(climb.ladder.loss[start + row]), float(ends[row])
                )
                if start + row < climb.ladder.top and climb.fine:
                    self._exchange(climb, way, kept, start + row)
                return
            level = start - 1
            if not sharp and level >= 0:
                level, sharp = climb.highest_below(level, way, kept, self.limit_ms), True

    def _exchange(self, climb: Climb, way: Way, kept: Kept, level: int) -> None:
        """Take the best of the alternatives around the highest level."""
        chosen = climb.ladder.near(level)
        losses, ends = climb.losses(chosen), climb.ends(chosen, way, kept)
        losses[ends > self.limit_ms] = np.inf
        best = int(np.where(losses <= losses.min() + SAME_LOSS, ends, np.inf).argmin())
        self._take(climb, way, kept, chosen[best], kept.loss + float(losses[best]), float(ends[best]))

    def _take(self, climb: Climb, way: Way, kept: Kept, chosen: Indices, loss: float, total_ms: float) -> None:  # noqa: PLR0917
        """Remember a candidate if it loses less, or as little in less time. chosen: (layers, slices)."""
        best = self.best
        if best is None or loss < best.loss - SAME_LOSS or (not self.hopeless(loss) and total_ms < best.total_ms):
            self.best = Found(loss, total_ms, climb.plan(chosen, way, kept))
