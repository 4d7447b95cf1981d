"""Requests for generated text, taken forward together: one pass over the layers serves all that are under way.

Every request is a job of the worker's only thread. The job that has its turn drives all requests until its own is done;
the next job then drives on. A new request joins at the next pass, wherever it stands in the queue of jobs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock

import numpy as np
import numpy.typing as npt

from device_agent.completion import FinishReason, GenerateOptions
from device_agent.generator import Generator, Running
from device_agent.phases import PhaseTimes
from device_agent.pipeline import Cancelled
from device_agent.plan import Plan
from device_agent.text_run import TextRun, TokenStep
from shard_store.errors import StiError


@dataclass(slots=True, eq=False)
class Order:
    """One request. `tell` gets pieces of text, from another thread; `left` is set when nobody listens any more."""

    prompt: npt.NDArray[np.int64]  # (tokens,)
    options: GenerateOptions
    plan: Plan
    tell: Callable[[str], None]
    choose: Callable[[], TextRun] | None = None  # the run for a target, once it is taken up; the plan is then that one
    chosen: TextRun | None = None
    left: Event = field(default_factory=Event)
    running: Running | None = None
    failure: StiError | None = None
    steps: int = 0  # passes that it took part in
    shared_steps: int = 0  # those that others took part in, too
    token_steps: list[TokenStep] = field(default_factory=list)  # those behind its prompt
    times: PhaseTimes = field(default_factory=PhaseTimes)
    done: bool = False
    placed_s: float = field(default_factory=time.perf_counter)
    first_token_ms: float = 0.0  # since it was placed
    answer_ms: float = 0.0  # the same, of its last token

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why its text ended."""
        return self.running.completion.finish_reason if self.running else None

    @property
    def drafted(self) -> int:
        """Tokens that were guessed."""
        return self.running.completion.lookup.drafted if self.running else 0

    @property
    def accepted(self) -> int:
        """Those that were right."""
        return self.running.completion.lookup.accepted if self.running else 0


class CompletionDesk:
    """`place` and `leave` may be called by any thread; all else by the one that owns the model."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._placed: list[Order] = []
        self._under_way: list[Order] = []

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def place(self, order: Order) -> None:
        """Have an order taken up at the next pass."""
        with self._lock:
            self._placed.append(order)

    def drive(self, generator: Generator, own: Order, gone: Callable[[], bool]) -> None:
        """Take all orders forward until `own` is done. Raises its error, or Cancelled."""
        try:
            while not own.done:
                if gone():
                    own.left.set()
                self._take_up(generator)
                for plan in dict.fromkeys(order.plan for order in self._under_way):
                    self._step(generator, plan)
        finally:
            self.tidy(generator)
        if own.failure is not None:
            raise own.failure

    def _take_up(self, generator: Generator) -> None:
        with self._lock:
            placed, self._placed = self._placed, []
        for order in placed:
            if order.left.is_set():
                order.failure, order.done = Cancelled("cancelled: the client went away"), True
                continue
            try:
                if order.choose is not None:
                    order.chosen = order.choose()
                    order.plan = order.chosen.plan
                order.running = generator.begin(order.prompt, order.options, order.plan)
                self._under_way.append(order)
            except StiError as error:
                order.failure, order.done = error, True
        self.tidy(generator)

    def _step(self, generator: Generator, plan: Plan) -> None:
        orders = [order for order in self._under_way if order.plan == plan]
        running = [order.running for order in orders if order.running is not None]
        before = [(len(text.completion.ids), text.completion.lookup.drafted) for text in running]
        started_s = time.perf_counter()
        try:
            pieces, times = generator.step(running, plan, lambda: all(order.left.is_set() for order in orders))
        except StiError as error:
            for order in orders:
                order.failure = error
            return self.tidy(generator)
        step_ms = (time.perf_counter() - started_s) * 1e3
        for order, text, (ids, drafted), settled in zip(orders, running, before, pieces, strict=True):
            if order.steps:  # an end token counts as one
                tokens = max(1, len(text.completion.ids) - ids)
                plain = len(orders) == 1 and text.completion.lookup.drafted == drafted
                order.token_steps.append(TokenStep(step_ms / tokens, times, plain=plain))
            order.steps, order.times = order.steps + 1, order.times + times
            order.answer_ms = (time.perf_counter() - order.placed_s) * 1e3
            order.first_token_ms = order.first_token_ms or order.answer_ms
            order.shared_steps += len(orders) > 1
            for piece in filter(None, settled):
                order.tell(piece)
        return self.tidy(generator)

    def tidy(self, generator: Generator) -> None:
        """Free what is done, failed or of no use to anybody any more."""
        for order in list(self._under_way):
            if order.left.is_set() and order.failure is None and order.finish_reason is None:
                order.failure = Cancelled("cancelled: the client went away")
            if order.failure is not None or order.finish_reason is not None:
                self._under_way.remove(order)
                order.done = True
                assert order.running is not None
                generator.end(order.running)
