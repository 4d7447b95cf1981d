"""The daemon's door: turns, room, and that nobody waits for what will never come."""

from collections.abc import Callable
from threading import Event, Thread

import pytest

from device_agent.admission import Abandoned, Admission
from device_agent.memory import Ledger
from shard_store.errors import BudgetError

WAIT_SECONDS = 20.0


class Waiter:
    """Someone who enters in a thread."""

    def __init__(self, enter: Callable[[], None]) -> None:
        self._enter = enter
        self.error: Exception | None = None
        self._over = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._enter()
        except Exception as error:
            self.error = error
        self._over.set()

    def waits(self) -> bool:
        return not self._over.wait(0.05)

    def join(self) -> None:
        assert self._over.wait(WAIT_SECONDS)


def door(budget: int, held: int = 0, frees: bool = True) -> tuple[Admission, Ledger]:
    ledger = Ledger()
    ledger.add(held)
    return Admission(ledger, budget, frees_on_the_way=frees), ledger


def test_who_has_room_enters_and_is_counted() -> None:
    admission, ledger = door(100, held=40)
    admission.enter(0, 60)
    assert ledger.held_bytes == 100
    admission.loaded(returned_bytes=20)
    assert ledger.held_bytes == 80


def test_who_has_no_room_waits_until_a_layer_is_freed() -> None:
    admission, ledger = door(100)
    admission.enter(0, 60)
    admission.loaded(returned_bytes=0)
    second = Waiter(lambda: admission.enter(1, 50))
    assert second.waits()
    ledger.add(-60)
    admission.leave()
    second.join()
    assert (second.error, ledger.held_bytes, ledger.peak_bytes) == (None, 50, 60)


def test_what_only_loading_needed_makes_room_too() -> None:
    admission, ledger = door(100, frees=False)
    admission.enter(0, 60)
    second = Waiter(lambda: admission.enter(1, 50))
    assert second.waits()
    admission.loaded(returned_bytes=30)
    second.join()
    assert (second.error, ledger.held_bytes) == (None, 80)


def test_nobody_overtakes() -> None:
    admission, ledger = door(100)
    second = Waiter(lambda: admission.enter(1, 10))
    assert second.waits()
    admission.enter(0, 90)
    second.join()
    assert ledger.held_bytes == 100


@pytest.mark.parametrize("frees", [True, False])
def test_where_nothing_will_be_freed_the_numbers_are_told(frees: bool) -> None:
    admission, _ = door(4 << 20, held=3 << 20, frees=frees)
    with pytest.raises(BudgetError, match=r"budget 4\.0 MiB is too small: 2\.0 MiB more .* beside 3\.0 that stay"):
        admission.enter(0, 2 << 20)


def test_nothing_is_freed_before_the_end_of_a_pass_that_frees_last() -> None:
    admission, ledger = door(100, frees=False)
    admission.enter(0, 60)
    admission.loaded(returned_bytes=0)
    with pytest.raises(BudgetError):
        admission.enter(1, 50)
    assert ledger.held_bytes == 60


def test_the_end_of_the_pass_sends_all_away() -> None:
    admission, ledger = door(100)
    admission.enter(0, 100)
    waiters = [Waiter(lambda turn=turn: admission.enter(turn, 10)) for turn in (1, 2)]  # type: ignore[misc]
    assert waiters[0].waits()
    admission.close()
    for waiter in waiters:
        waiter.join()
        assert isinstance(waiter.error, Abandoned)
    assert ledger.held_bytes == 100
