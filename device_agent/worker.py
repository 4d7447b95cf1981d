"""The thread that owns the model: it loads it, answers one request after another, and closes it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Protocol, TypeVar

from device_agent.goal import NO_GOAL, Goal
from device_agent.interpreter import collect
from device_agent.memory import Ledger
from device_agent.pipeline import Cancelled
from device_agent.plan import Plan
from device_agent.report import Answer
from device_agent.text import Text
from device_agent.texts import Texts
from shard_store.errors import StiError
from shard_store.manifest import Manifest

MAX_WAITING = 32

logger = logging.getLogger(__name__)
T = TypeVar("T")
Gone = Callable[[], bool]


class Model(Protocol):
    """What is asked of an engine."""

    ledger: Ledger
    budget_bytes: int

    @property
    def manifest(self) -> Manifest:
        """What the store holds."""

    def uniform_plan(self, bits: int | None = None, layers: int | None = None, slices: int | None = None) -> Plan:
        """A plan at one bitwidth. Raises PlanError."""

    def ready(self, plan: Plan | None, goal: Goal) -> None:
        """Prepare for requests that say nothing of their own. Raises PlanError if they could not be answered."""

    def answer(
        self, inputs: Sequence[Text], plan: Plan | None = None, *,
        goal: Goal = NO_GOAL, truncate: bool = False, cancelled: Gone = ...,
    ) -> Answer:  # fmt: skip
        """Answer a batch. Raises StiError."""

    @property
    def texts(self) -> Texts:
        """What generates text, where the model does."""

    def set_budget(self, budget_bytes: int) -> None:
        """Change the memory budget. Raises BudgetError."""

    def settle(self, interrupted: Gone) -> bool:
        """Load what the next request would like to find in memory."""

    def close(self) -> None:
        """Free everything."""


class NotLoadedError(Exception):
    """The model is still being loaded."""


class LoadFailedError(Exception):
    """The model could not be loaded; the message is one line."""


class BusyError(Exception):
    """Too many requests are waiting."""


class JobFailedError(Exception):
    """A job failed in a way that nobody foresaw; the message is one line, the traceback is in the log."""


class Worker:
    """One model in one thread. Every method is called on the event loop and returns to it at once or awaits."""

    def __init__(self, load: Callable[[], Model], max_waiting: int = MAX_WAITING) -> None:
        self._load = load
        self._max_waiting = max_waiting
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._closing = Event()
        self._loaded: Model | None = None
        self.failure: str | None = None
        self.waiting = 0

    def start(self) -> None:
        """Begin to load."""
        self._thread.submit(self._load_model)

    def _load_model(self) -> None:
        try:
            self._loaded = self._load()
        except StiError as error:
            self.failure = str(error)
        except Exception as error:
            logger.exception("loading failed")
            self.failure = f"the model could not be loaded: {type(error).__name__}; see the agent's log"
        if self.failure:
            logger.error("%s", self.failure)

    @property
    def model(self) -> Model:
        """The loaded model. Raises NotLoadedError or LoadFailedError."""
        if self.failure:
            raise LoadFailedError(self.failure)
        if self._loaded is None:
            raise NotLoadedError
        return self._loaded

    async def run(self, job: Callable[[Model, Gone], T], gone: asyncio.Task[None]) -> T:
        """Run a job when its turn comes; as soon as `gone` is done it loses its turn or is told to stop.

        Raises BusyError, Cancelled, the StiError of the job, or JobFailedError for any other.
        """
        model = self.model
        if self.waiting >= self._max_waiting:
            raise BusyError(f"{self.waiting} requests are waiting already; try again later")
        stop = Event()
        self.waiting += 1
        try:
            queued = self._thread.submit(_guarded, job, model, lambda: stop.is_set() or self._closing.is_set())
            work = asyncio.wrap_future(queued)
            work.add_done_callback(_look_at)
            both: set[asyncio.Future[T] | asyncio.Task[None]] = {work, gone}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            stop.set()
            queued.cancel()
            await asyncio.wait({work})
            raise Cancelled("cancelled: the client went away")
        finally:
            stop.set()  # also when this task itself is cancelled
            self.waiting -= 1
            if not self.waiting and not self._closing.is_set():
                self._thread.submit(self._settle, model)

    def submit(self, job: Callable[[Model], object]) -> None:
        """Have something done in the model's thread, behind what waits; nobody waits for it."""
        if not self._closing.is_set():
            self._thread.submit(job, self.model)

    def _settle(self, model: Model) -> None:
        """Use the time until the next request."""
        collect(idle=True)
        try:
            model.settle(lambda: self.waiting > 0 or self._closing.is_set())
        except StiError as error:
            logger.warning("layers that should stay could not be loaded: %s", error)
        except Exception:
            logger.exception("layers that should stay could not be loaded")

    async def close(self) -> None:
        """Stop what runs at its next layer, drop what waits, free the model."""
        self._closing.set()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        if self._loaded is not None:
            self._loaded.close()


def _guarded(job: Callable[[Model, Gone], T], model: Model, gone: Gone) -> T:
    """Log what is nobody's mistake but ours here: the server would do so too, but then drop the connection."""
    try:
        return job(model, gone)
    except StiError:
        raise
    except Exception as error:
        logger.exception("a request failed unexpectedly")
        raise JobFailedError(f"the agent failed unexpectedly ({type(error).__name__}); see its log") from error
    finally:
        collect(idle=False)


def _look_at(work: "asyncio.Future[T]") -> None:
    """Retrieve the error of work that nobody waits for any more, or asyncio would log it."""
    if not work.cancelled():
        work.exception()
