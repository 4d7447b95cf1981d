"""The crew of loading agents, and the flight of one pass: layers that are loading, loaded or executing."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

from device_agent.loading import LayerSource, LoadedLayer, LoadingAgent

Load = Callable[[LoadingAgent], LoadedLayer]


class Crew:
    """A fixed number of loading agents, each with its own scratch space, at work in threads."""

    def __init__(self, source: LayerSource, agents: int) -> None:
        self.agents = agents
        self._idle: SimpleQueue[LoadingAgent] = SimpleQueue()
        for _ in range(agents):
            self._idle.put(LoadingAgent(source))
        self._threads = ThreadPoolExecutor(agents, thread_name_prefix="loading-agent")

    def submit(self, load: Load) -> "Future[LoadedLayer]":
        """Have the next idle agent do a load; loads begin in the order in which they were submitted."""
        return self._threads.submit(self._work, load)

    def _work(self, load: Load) -> LoadedLayer:
        agent = self._idle.get()
        try:
            return load(agent)
        finally:
            self._idle.put(agent)

    def close(self) -> None:
        """Wait for the agents and let them go."""
        self._threads.shutdown()


class Flight:
    """The loads of one pass, in order, with at most `limit` layers under way at any time."""

    def __init__(self, crew: Crew, loads: Iterable[Load], limit: int) -> None:
        self._crew = crew
        self._loads = iter(loads)
        self._under_way: deque[Future[LoadedLayer]] = deque()
        for _ in range(limit):
            self.launch()

    def launch(self) -> None:
        """Start the next load, if there is one left. To be called when a layer has been freed or kept."""
        load = next(self._loads, None)
        if load is not None:
            self._under_way.append(self._crew.submit(load))

    def arrivals(self) -> Iterator[None]:
        """Wait for the layers under way, in order, without taking them. Raises what their loading raised."""
        for future in tuple(self._under_way):
            future.result()
            yield

    def take(self) -> LoadedLayer:
        """Wait for the next layer. Raises what its loading raised."""
        loaded = self._under_way[0].result()  # an interrupt of the wait leaves it to be abandoned
        self._under_way.popleft()
        return loaded

    def abandon(self, free: Callable[[LoadedLayer], None]) -> None:
        """Stop loading and free what has been loaded but not taken; what failed is passed over, whatever the error."""
        while self._under_way:
            future = self._under_way.popleft()
            if not future.cancel() and future.exception() is None:
                free(future.result())
