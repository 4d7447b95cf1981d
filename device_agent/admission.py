"""The daemon agent's door: layers enter memory in order, and only when there is room (PIPELOAD, section III)."""

from device_agent.memory import MIB, Ledger
from shard_store.errors import BudgetError, StiError


class Abandoned(StiError):  # noqa: N818 (nobody's mistake)
    """The pass that a load was for has ended."""


class Admission:
    """One pass's way into memory: a loading agent waits here rather than exceed the budget, at any moment.

    Turns are given in the order of execution, so that whoever waits for room waits for layers that execute before its
    own, and these wait for nothing: no budget that holds one layer can deadlock. Where no room will ever come, because
    nothing is left that will be freed, the load fails with the numbers.
    """

    def __init__(self, ledger: Ledger, budget_bytes: int, *, frees_on_the_way: bool) -> None:
        """frees_on_the_way: whether layers are freed before the end of the pass."""
        self._ledger = ledger
        self._budget_bytes = budget_bytes
        self._frees_on_the_way = frees_on_the_way
        self._next_turn = 0
        self._inside = 0  # layers that are loading, loaded or executing
        self._loading = 0
        self._closed = False

    def enter(self, turn: int, nbytes: int) -> None:
        """Wait for the turn and for room, then count the bytes. Raises BudgetError if there will be none."""
        with self._ledger.changed:
            self._ledger.changed.wait_for(lambda: self._closed or self._may_decide(turn, nbytes))
            if self._closed:
                raise Abandoned("loading ended with its pass")
            self._next_turn += 1
            self._ledger.changed.notify_all()
            if not self._fits(nbytes):
                raise BudgetError(
                    f"memory budget {self._budget_bytes / MIB:.1f} MiB is too small: {nbytes / MIB:.1f} MiB more are "
                    f"needed for a layer beside {self._ledger.held_bytes / MIB:.1f} that stay; raise --memory-mb"
                )
            self._inside += 1
            self._loading += 1
            self._ledger.add(nbytes)

    def _may_decide(self, turn: int, nbytes: int) -> bool:
        room_may_come = self._loading or (self._inside and self._frees_on_the_way)
        return turn == self._next_turn and (self._fits(nbytes) or not room_may_come)

    def _fits(self, nbytes: int) -> bool:
        return self._ledger.held_bytes + nbytes <= self._budget_bytes

    def loaded(self, returned_bytes: int) -> None:
        """A layer has been loaded, or has failed to: give back what only its loading needed."""
        with self._ledger.changed:
            self._loading -= 1
            self._ledger.add(-returned_bytes)

    def leave(self) -> None:
        """A layer has been freed, or stays for good."""
        with self._ledger.changed:
            self._inside -= 1
            self._ledger.changed.notify_all()

    def close(self) -> None:
        """Send all who wait away: the pass is over."""
        with self._ledger.changed:
            self._closed = True
            self._ledger.changed.notify_all()
