"""Loading agents and the flight of one pass, with loads that record, wait and fail."""

from collections.abc import Callable
from functools import partial
from threading import Barrier, Event
from typing import cast

import pytest

from device_agent.crew import Crew, Flight, Load
from device_agent.loading import LoadedLayer, LoadingAgent
from device_agent.plan import LayerPlan
from shard_store.errors import FormatError
from tests.fake_layers import WAIT_SECONDS, FakeAgent, FakeHandle, FakeLayers, fake_layers


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch) -> FakeLayers:
    return fake_layers(monkeypatch)


def load_of(number: int, before: Callable[[], object] = lambda: None) -> Load:
    def load(agent: LoadingAgent) -> LoadedLayer:
        before()
        return agent.load(LayerPlan(number, (8,)), 16, 10)

    return load


def number_of(loaded: LoadedLayer) -> int:
    return cast(FakeHandle, loaded.handle).layer.layer


def fail(error: BaseException) -> None:
    raise error


def test_agents_work_at_the_same_time(layers: FakeLayers) -> None:
    crew, together = Crew(layers.as_source(), 3), Barrier(3)
    futures = [crew.submit(load_of(number, partial(together.wait, WAIT_SECONDS))) for number in range(3)]
    assert [number_of(future.result(WAIT_SECONDS)) for future in futures] == [0, 1, 2]
    assert len(layers.agents) == 3
    crew.close()


def test_no_more_loads_run_than_there_are_agents_and_in_the_order_submitted(layers: FakeLayers) -> None:
    crew = Crew(layers.as_source(), 1)
    futures = [crew.submit(load_of(number)) for number in range(20)]
    crew.close()
    assert all(future.done() for future in futures), "close waits"
    assert layers.of("load") == list(range(20))
    assert layers.most_loading == len(layers.agents) == 1


def test_an_agent_whose_load_failed_works_on(layers: FakeLayers) -> None:
    crew = Crew(layers.as_source(), 1)
    with pytest.raises(FormatError, match="damaged"):
        crew.submit(load_of(0, partial(fail, FormatError("damaged")))).result(WAIT_SECONDS)
    assert number_of(crew.submit(load_of(1)).result(WAIT_SECONDS)) == 1
    crew.close()


def test_a_flight_launches_up_to_its_limit_and_hands_out_in_order(layers: FakeLayers) -> None:
    crew, released = Crew(layers.as_source(), 2), Event()
    loads = [load_of(0, partial(released.wait, WAIT_SECONDS)), load_of(1, released.set), load_of(2), load_of(3)]
    flight = Flight(crew, loads, 2)
    assert [number_of(flight.take()), number_of(flight.take())] == [0, 1], "though 1 was loaded before 0"
    assert sorted(layers.of("load")) == [0, 1]
    flight.launch()
    assert number_of(flight.take()) == 2
    for _ in range(3):
        flight.launch()
    assert number_of(flight.take()) == 3
    crew.close()
    assert layers.of("load")[2:] == [2, 3]


def test_abandoning_frees_what_was_loaded_and_starts_nothing_more(layers: FakeLayers) -> None:
    crew, started, go_on = Crew(layers.as_source(), 1), Event(), Event()

    def wait() -> None:
        started.set()
        assert go_on.wait(WAIT_SECONDS)

    flight = Flight(crew, [load_of(0), load_of(1, wait), load_of(2)], 3)
    taken, freed = flight.take(), list[int]()
    assert started.wait(WAIT_SECONDS)

    def free(loaded: LoadedLayer) -> None:
        freed.append(number_of(loaded))

    crew.submit(load_of(9)).add_done_callback(lambda _: None)
    go_on.set()
    flight.abandon(free)
    crew.close()
    assert number_of(taken) == 0, "the taker's to free"
    loaded = [number for number in layers.of("prepare") if number not in (0, 9)]
    assert freed == loaded
    assert 1 in freed


@pytest.mark.parametrize("error", [FormatError("damaged"), OSError("gone"), MemoryError(), ValueError("a bug")])
def test_loads_that_failed_do_not_keep_others_from_being_freed(layers: FakeLayers, error: Exception) -> None:
    crew, loaded, freed = Crew(layers.as_source(), 1), Event(), list[int]()
    flight = Flight(crew, [load_of(0, partial(fail, error)), load_of(1, partial(fail, error)), load_of(2)], 3)
    crew.submit(load_of(3)).add_done_callback(lambda _: loaded.set())
    assert loaded.wait(WAIT_SECONDS)
    with pytest.raises(type(error)):
        flight.take()
    flight.abandon(lambda one: freed.append(number_of(one)))
    crew.close()
    assert freed == [2]


def test_a_wait_that_is_interrupted_loses_no_layer(layers: FakeLayers, monkeypatch: pytest.MonkeyPatch) -> None:
    crew, freed = Crew(layers.as_source(), 1), list[int]()
    flight = Flight(crew, [load_of(0)], 1)
    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", lambda _future: fail(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            flight.take()
    crew.close()
    flight.abandon(lambda one: freed.append(number_of(one)))
    assert freed == [0]


def test_agents_are_made_by_the_crew(layers: FakeLayers) -> None:
    Crew(layers.as_source(), 4).close()
    assert all(isinstance(agent, FakeAgent) for agent in layers.agents)
    assert len(layers.agents) == 4
