from collections.abc import Iterator

import pytest

from device_agent.activations_pool import ActivationsPool
from device_agent.litert import Runtime
from device_agent.memory import Ledger

HIDDEN = 8
BYTES = 1000  # of one text


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def pool(runtime: Runtime) -> ActivationsPool:
    return ActivationsPool(runtime, HIDDEN, Ledger())


def held(pool: ActivationsPool) -> int:
    return pool._ledger.held_bytes


def test_one_texts_states_stay_for_the_next(pool: ActivationsPool) -> None:
    with pool.batch(16, 3, 3 * BYTES) as batch:
        assert len(batch) == 3
        assert held(pool) == 3 * BYTES
        before = batch[0]
    assert held(pool) == BYTES
    with pool.batch(16, 1, BYTES) as (again,):
        assert again is before
        assert held(pool) == BYTES
        assert again.hidden.shape == (16, HIDDEN)
    pool.clear()
    assert held(pool) == 0
    pool.clear()
    assert held(pool) == 0


def test_states_of_another_length_are_freed_first(pool: ActivationsPool) -> None:
    with pool.batch(64, 1, 4 * BYTES) as (before,):
        pass
    with pool.batch(16, 2, 2 * BYTES) as batch:
        assert before not in batch
        assert not before.mask.handle
        assert {activations.sequence for activations in batch} == {16}
        assert held(pool) == 2 * BYTES
    assert pool._ledger.peak_bytes == 4 * BYTES
    assert held(pool) == BYTES
    pool.clear()


def test_a_failed_pass_leaves_states_that_can_be_used(pool: ActivationsPool) -> None:
    def fail() -> None:
        with pool.batch(16, 2, 2 * BYTES):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert held(pool) == BYTES
    with pool.batch(16, 1, BYTES) as (again,):
        assert again.mask.handle
    pool.clear()
