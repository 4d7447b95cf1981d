"""One question under way: IO planning for the likeliest depths and widths (STI, section 5.3, extended).

A candidate is a depth and width, a way through the pipeline, what stays in memory, and a level of a ladder. Target and
budget only decide which candidates are allowed, never which there are, so a larger one never answers worse. Bounds
leave most of them unseen, and never the best.
"""

from collections.abc import Callable, Iterator

import numpy as np

from device_agent.planning.ascent import SAME_LOSS, Ascent, Found
from device_agent.planning.ask import Ask
from device_agent.planning.candidates import Candidate, Candidates
from device_agent.planning.climb import Climb
from device_agent.planning.kept import Kept
from device_agent.planning.options import Floats, Indices
from device_agent.planning.overview import Overview
from device_agent.planning.table import stop_of

_LEVELS_AT_ONCE = 128
_FEW_ROWS = 64


class Search:
    """The best candidate so far, and how to look for better ones."""

    def __init__(self, overview: Overview, ask: Ask, limit_ms: float) -> None:
        self._overview, self._table, self._ask, self._limit_ms = overview, overview.table, ask, limit_ms
        self._candidates = Candidates(overview, ask, limit_ms)
        self._climbs: dict[int, Climb] = {}
        self._best: Found | None = None

    def best(self) -> Found | None:
        """The candidate of least loss, None if nothing keeps target and budget."""
        bounds = self._candidates.bounds()
        self._explore(bounds, self._candidates.ready)
        if self._ask.residency:
            self._explore(bounds[: len(self._table.cell)], self._candidates.stored)  # shard by shard alone
        return self._best

    def _explore(self, bounds: Floats, candidates: Callable[[Indices, float], Iterator[Candidate]]) -> None:
        """Look among these rows, a few of the least bounds first, so that most of the others are dismissed unseen."""
        rows = np.argsort(bounds, kind="stable")
        for some in (rows[:_FEW_ROWS], rows[_FEW_ROWS:]):
            likely = some[bounds[some] < self._less_than]
            if len(likely):
                self._try_all(candidates(likely, self._less_than))

    @property
    def _less_than(self) -> float:
        """What loses less is of interest: better than the best, or as good, and perhaps faster."""
        return self._best.loss + 2 * SAME_LOSS if self._best else np.inf

    def _try_all(self, candidates: Iterator[Candidate]) -> None:
        tried = set[tuple[int, int]]()  # cells and ways: of those that are no better, the first is the fastest
        for candidate in candidates:
            if candidate.bound >= self._less_than:
                break
            key = int(self._table.cell[candidate.row % len(self._table.cell)]), candidate.way
            if self._best is None or candidate.bound < self._best.loss - SAME_LOSS or key not in tried:
                tried.add(key)
                self._try(candidate)

    def _try(self, candidate: Candidate) -> None:
        """Take the highest level that keeps the target, if it is of interest."""
        climb = self._climb_of(candidate.row)
        kept = Kept(climb.cell, candidate.ready, climb.count - candidate.ready, candidate.option)
        ascent = Ascent(climb, kept, self._candidates.ways[candidate.way], candidate.kept_loss)
        stop = self._stop(candidate, climb)
        while stop > 0:
            start = max(0, stop - _LEVELS_AT_ONCE)
            losses = candidate.kept_loss + climb.least_losses(start, stop)  # never rise
            hopeless = int((losses >= self._less_than).sum())
            if highest := ascent.highest(start + hopeless, stop, self._limit_ms):
                level, found = highest
                self._take(found)
                if climb.cell.fine and level < climb.top and (near := ascent.near(level, self._limit_ms)):
                    self._take(near)
            if highest or hopeless:
                return
            stop = start

    def _climb_of(self, row: int) -> Climb:
        if row not in self._climbs:
            ladder, cut = divmod(row, len(self._table.cell))
            cell = int(self._table.cell[cut])
            self._climbs[row] = Climb(
                self._overview.facts, self._overview.cells[cell], self._table.ladders[ladder][cell],
                int(self._table.count[cut]),
            )  # fmt: skip
        return self._climbs[row]

    @staticmethod
    def _stop(candidate: Candidate, climb: Climb) -> int:
        """No level from this one on keeps the target, by the table."""
        if climb.cell.fine:  # there the table is of the alternatives around levels
            return climb.top + 1
        return int(np.searchsorted(climb.levels, stop_of(climb.ladder, candidate.knots)))

    def _take(self, found: Found) -> None:
        """Remember a candidate if it loses less, or as little in less time."""
        best = self._best
        better = best is None or found.loss < best.loss - SAME_LOSS
        if better or (best and found.loss <= best.loss + SAME_LOSS and found.total_ms < best.total_ms):
            self._best = found
