"""What competes under a question: which layers stay in memory, and how the others pass, with bounds of the loss."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from device_agent.planning.ask import Ask
from device_agent.planning.facts import Facts
from device_agent.planning.options import Floats, Indices
from device_agent.planning.overview import Overview
from device_agent.planning.schedule import Way

_MOST_AGENTS = 4  # one reads, and one prepares in every lane
_MOST_BESIDE_STORED = 2  # layers in flight, if some are kept as stored
_DIGITS = 12  # of losses that are told apart


@dataclass(frozen=True, slots=True)
class Candidate:
    """All levels of a ladder, for some layers kept and one way through the pipeline."""

    row: int  # of the table: which layers need no read, and the ladder of the others
    way: int
    ready: int  # layers that are not loaded
    option: int  # bitwidth of those that are loaded but not read
    kept_loss: float  # of all but the streamed layers
    bound: float  # of the loss
    knots: int  # of the table that are within the limit


class Candidates:
    """Those of one question, by rows of the table."""

    def __init__(self, overview: Overview, ask: Ask, limit_ms: float) -> None:
        self._overview, self._table, self._ask, self._limit_ms = overview, overview.table, ask, limit_ms
        self.ways = _ways(ask, overview.facts)
        self._agents = np.array([way.agents for way in self.ways])
        self._in_flight = np.array([way.in_flight for way in self.ways])

    def bounds(self) -> Floats:
        """Of all rows, in whatever way their layers are kept: (rows,)."""
        most_agents, most_in_flight = int(self._agents.max()), int(self._in_flight.max())
        return self._overview.bounds(self._ask, self._limit_ms, most_agents, most_in_flight)

    def ready(self, rows: Indices, less_than: float) -> Iterator[Candidate]:
        """Those whose layers before the cut are ready to run."""
        cuts = rows % len(self._table.cell)
        count = self._table.count[cuts]
        fits = self._room_bytes(np.arange(len(self.ways)), cuts, count) >= 0
        dominated = np.zeros_like(fits)
        for way, more in self._with_an_agent_more():
            if self.ways[way].prepare_factor == self.ways[more].prepare_factor:
                dominated[way] = fits[more]  # which then never ends later
        of_way, place = np.nonzero(fits & ~dominated)
        return self._bounded(
            rows[place], of_way, less_than=less_than, ready=count[place], option=np.zeros_like(place),
            kept_loss=self._table.kept_loss[cuts[place]], stored_ms=np.zeros(len(place)),
        )  # fmt: skip

    def stored(self, rows: Indices, less_than: float) -> Iterator[Candidate]:
        """Those that keep some of the layers before the cut as stored, at one bitwidth. One agent, few in flight."""
        table, ask = self._table, self._ask
        most_in_flight = ask.layers_in_flight or _MOST_BESIDE_STORED
        ways = np.flatnonzero((self._agents == (ask.loading_agents or 1)) & (self._in_flight <= most_in_flight))
        cuts = rows % len(table.cell)
        place, ready = np.nonzero(np.arange(table.count.max()) < table.count[cuts][:, None])
        rows, cuts = rows[place], cuts[place]
        first = cuts - table.count[cuts] + ready  # the cut before the layers as stored
        losses = table.kept_loss[first][:, None] - table.stored_loss[first] + table.stored_loss[cuts]
        place, option = np.nonzero(losses < less_than)
        rows, cuts, first, ready, losses = rows[place], cuts[place], first[place], ready[place], losses[place, option]
        stored_bytes = table.stored_bytes[cuts, option] - table.stored_bytes[first, option]
        way, place = np.nonzero(stored_bytes <= self._room_bytes(ways, cuts, ready))
        rows, cuts, ready, option = rows[place], cuts[place], ready[place], option[place]
        stored_ms = self._overview.stored_ms[table.cell[cuts], option] * (table.count[cuts] - ready)
        return self._bounded(
            rows, ways[way], less_than=less_than, ready=ready, option=option, kept_loss=losses[place],
            stored_ms=stored_ms,
        )  # fmt: skip

    def _bounded(
        self, rows: Indices, way: Indices, *, less_than: float, ready: Indices, option: Indices, kept_loss: Floats,
        stored_ms: Floats,
    ) -> Iterator[Candidate]:  # fmt: skip
        """Least bound first, then more ready layers first, then more that need no read."""
        loss, knots = self._overview.streamed(
            rows, self._limit_ms, ready=ready, stored_ms=stored_ms, agents=self._agents[way],
            in_flight=self._in_flight[way],
        )  # fmt: skip
        bound = np.round(kept_loss + loss, _DIGITS)
        chosen = np.flatnonzero(bound < less_than)
        count = self._table.count[rows[chosen] % len(self._table.cell)]
        chosen = chosen[np.lexsort((-count, -ready[chosen], bound[chosen]))]
        columns = (rows, way, ready, option, kept_loss, bound, knots)
        return map(Candidate, *(column[chosen].tolist() for column in columns))

    def _room_bytes(self, ways: Indices, cuts: Indices, ready: Indices) -> Indices:
        """Room for layers as stored, negative for what does not fit or has too few layers: (ways, cuts)."""
        agents, in_flight = self._agents[ways, None], self._in_flight[ways, None]
        room = self._overview.room_bytes(self._ask, cuts, ready, agents, in_flight)
        if self._ask.layers_in_flight is None:
            room = np.where(in_flight <= self._table.depth[cuts], room, -1)
        return room

    def _with_an_agent_more(self) -> Iterator[tuple[int, int]]:
        """Ways, and those that differ by an agent more."""
        places = {(way.agents, way.in_flight): place for place, way in enumerate(self.ways)}
        for (agents, in_flight), place in places.items():
            if (more := (agents + 1, in_flight)) in places:
                yield place, places[more]


def _ways(ask: Ask, facts: Facts) -> list[Way]:
    """Agents and layers in flight to try."""
    lanes, costs = facts.prepare_lanes, facts.costs
    most_agents = min(_MOST_AGENTS, lanes + 1)
    in_flights = [ask.layers_in_flight] if ask.layers_in_flight else range(1, most_agents + 2)
    return [
        Way(agents, in_flight, lanes, costs.loading_factor, crowding_factor=costs.crowding_factor)
        for in_flight in in_flights
        for agents in ([ask.loading_agents] if ask.loading_agents else range(1, min(most_agents, in_flight) + 1))
    ]
