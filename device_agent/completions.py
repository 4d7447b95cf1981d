"""POST /v1/completions and /v1/chat/completions: from a request to an order, and from its pieces to an answer."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from device_agent.chat import chat_prompt
from device_agent.completion import FinishReason, GenerateOptions
from device_agent.completion_desk import CompletionDesk, Order
from device_agent.completion_schemas import (
    CHAT_TOKENS,
    COMPLETION_TOKENS,
    ChatChoice,
    ChatDelta,
    ChatPieceChoice,
    ChatRequest,
    CompletionAnswer,
    CompletionChoice,
    CompletionRequest,
    CompletionUsage,
    GenerationSummary,
)  # fmt: skip
from device_agent.failures import UnknownModelError
from device_agent.goal import Goal
from device_agent.plan import parse_plan
from device_agent.plan_choice import PlanChoice
from device_agent.schemas import ErrorAnswer, ErrorBody
from device_agent.text_run import token_ms, typical_times
from device_agent.worker import Gone, Model, Worker
from shard_store.errors import RequestError, StiError

_ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 413, 429, 500, 503)
}


@dataclass(frozen=True, slots=True)
class _Reply:
    """How the pieces of one answer are written."""

    chat: bool
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, text: str, reason: FinishReason | None, order: Order, summary: GenerationSummary) -> str:
        """An answer in one piece."""
        choice = (
            ChatChoice(message=ChatDelta(role="assistant", content=text), finish_reason=reason)
            if self.chat
            else CompletionChoice(text=text, finish_reason=reason)
        )
        return self._answer(choice, stream=False, usage=_usage(order), summary=summary).model_dump_json()

    def piece(self, text: str, *, first: bool = False, reason: FinishReason | None = None) -> str:
        """One event of a stream."""
        delta = ChatDelta(role="assistant" if first else None, content=text)
        choice = (
            ChatPieceChoice(delta=delta, finish_reason=reason)
            if self.chat
            else CompletionChoice(text=text, finish_reason=reason)
        )
        return _event(self._answer(choice, stream=True).model_dump_json(exclude={"usage", "sti"}))

    def usage(self, order: Order, summary: GenerationSummary) -> str:
        """The event that tells the tokens of a stream."""
        return _event(self._answer(None, stream=True, usage=_usage(order), summary=summary).model_dump_json())

    def _answer(
        self, choice: CompletionChoice | ChatChoice | ChatPieceChoice | None, *, stream: bool,
        usage: CompletionUsage | None = None, summary: GenerationSummary | None = None,
    ) -> CompletionAnswer:  # fmt: skip
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if stream else "chat.completion"
        return CompletionAnswer.model_validate({
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}", "object": kind, "created": self.created,
            "model": self.model, "choices": [] if choice is None else [choice], "usage": usage, "sti": summary,
        })  # fmt: skip


def add_completions(app: FastAPI, worker: Worker, default: PlanChoice) -> None:
    """Add both routes."""
    desk = CompletionDesk()

    @app.post("/v1/completions", response_model=CompletionAnswer, responses=_ERRORS)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        model = _model(worker, body.model)
        options = body.options(body.max_tokens or COMPLETION_TOKENS)
        ids = await asyncio.to_thread(model.texts.prompts.encode, body.prompt)
        return await _reply(
            request, worker, desk, body, ids=ids, options=options, choice=_choice(body, default), model=model
        )

    @app.post("/v1/chat/completions", response_model=CompletionAnswer, responses=_ERRORS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        model = _model(worker, body.model)
        generation = model.manifest.description.generation
        assert generation is not None
        messages = [message.model_dump() for message in body.messages]
        prompt = await asyncio.to_thread(chat_prompt, generation, messages)
        asked = body.max_completion_tokens or body.max_tokens
        ids = await asyncio.to_thread(model.texts.prompts.encode, prompt, special=False)
        room = model.manifest.description.max_tokens - len(ids)
        options = body.options(asked or max(1, min(CHAT_TOKENS, room)))
        return await _reply(
            request, worker, desk, body, ids=ids, options=options, choice=_choice(body, default), model=model
        )


def _model(worker: Worker, name: str | None) -> Model:
    model = worker.model
    described = model.manifest.description
    if name not in {None, described.model}:
        raise UnknownModelError(f"model {name!r} is not loaded; this agent has {described.model!r}")
    if described.generation is None:
        raise RequestError(f"{described.model} generates no text; ask /v1/classify or /v1/embeddings")
    return model


def _choice(body: CompletionRequest | ChatRequest, default: PlanChoice) -> PlanChoice:
    plan = None if body.plan is None else parse_plan(body.plan)
    return PlanChoice(body.bits, body.layers, body.slices, plan, Goal(target_ms=body.target_ms)).over(default)


async def _reply(
    request: Request, worker: Worker, desk: CompletionDesk, body: CompletionRequest | ChatRequest, *,
    ids: npt.NDArray[np.int64], options: GenerateOptions, choice: PlanChoice, model: Model,
) -> Response:  # fmt: skip
    reply = _Reply(isinstance(body, ChatRequest), model.manifest.description.model)
    resolved = choice.resolve(model)
    plan = resolved or model.uniform_plan()
    plan.check(model.manifest)
    pieces: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    order = Order(ids, options, plan, lambda piece: _hand_over(loop, pieces, piece))
    if resolved is None and (target_ms := choice.goal.target_ms) is not None:
        order.choose = lambda: model.texts.run(target_ms, len(ids) + options.max_tokens)
    visit = _Visit(worker, desk, order, pieces)
    gone = asyncio.create_task(_disconnected(request))
    try:
        if body.stream:
            first = await visit.next(gone)
            stream = _events(visit, reply, first, body.include_usage, model)
            return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text = ""
        while (piece := await visit.next(gone)) is not None:
            text += piece
        await visit.leave()
        return Response(
            reply.whole(text, order.finish_reason, order, _summary(order, model)), media_type="application/json"
        )
    except BaseException:
        await visit.leave()
        raise
    finally:
        gone.cancel()


async def _events(
    visit: "_Visit", reply: _Reply, first: str | None, include_usage: bool, model: Model
) -> AsyncIterator[str]:
    try:
        yield reply.piece(first or "", first=True)
        while (piece := await visit.next()) is not None:
            yield reply.piece(piece)
        yield reply.piece("", reason=visit.order.finish_reason)
        if include_usage:
            yield reply.usage(visit.order, _summary(visit.order, model))
        yield _event("[DONE]")
    except StiError as error:
        yield _event(ErrorAnswer(error=ErrorBody(message=str(error), type="agent_error")).model_dump_json())
    finally:
        await visit.leave()


class _Visit:
    """An order at the desk, seen from the event loop."""

    def __init__(self, worker: Worker, desk: CompletionDesk, order: Order, pieces: "asyncio.Queue[str]") -> None:
        self.order = order
        self._pieces = pieces
        self._left = asyncio.Event()
        self._gone: asyncio.Task[None] = asyncio.create_task(self._wait_left())
        desk.place(order)

        def job(model: Model, gone: Gone) -> None:
            if desk.idle:
                model.ledger.restart()
            desk.drive(model.texts.generator, order, gone)
            if order.chosen is not None and (times := typical_times(order.token_steps)) is not None:
                model.texts.observe(order.chosen, times)

        self._driving = asyncio.create_task(worker.run(job, self._gone))
        self._tidy: Callable[[], None] = lambda: worker.submit(lambda model: desk.tidy(model.texts.generator))

    async def _wait_left(self) -> None:
        await self._left.wait()

    async def next(self, gone: "asyncio.Task[None] | None" = None) -> str | None:
        """The next piece of text, None at the end. Raises the order's error, or Cancelled once `gone` is done."""
        if gone is not None and gone.done():
            self._left.set()
        getter = asyncio.create_task(self._pieces.get())
        waiting: set[asyncio.Future[object]] = {getter, self._driving, *([gone] if gone else [])}  # type: ignore[arg-type]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            return getter.result()
        getter.cancel()
        if not self._driving.done():
            self._left.set()
            self.order.left.set()
        await self._driving
        return self._pieces.get_nowait() if not self._pieces.empty() else None

    async def leave(self) -> None:
        """Nobody listens any more."""
        self.order.left.set()
        self._left.set()
        await asyncio.gather(self._driving, self._gone, return_exceptions=True)
        if not self.order.done:
            self._tidy()


def _hand_over(loop: asyncio.AbstractEventLoop, pieces: "asyncio.Queue[str]", piece: str) -> None:
    loop.call_soon_threadsafe(pieces.put_nowait, piece)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _usage(order: Order) -> CompletionUsage:
    made = len(order.running.completion.ids) if order.running else 0
    return CompletionUsage(
        prompt_tokens=len(order.prompt), completion_tokens=made, total_tokens=len(order.prompt) + made
    )


def _summary(order: Order, model: Model) -> GenerationSummary:
    plan, times = order.plan, order.times
    return GenerationSummary(
        layers=len(plan.layers), slices=plan.slices, bits=list(plan.bitwidths),
        steps=order.steps, shared_steps=order.shared_steps, drafted=order.drafted, accepted=order.accepted,
        read_ms=times.read_ms, prepare_ms=times.prepare_ms, execute_ms=times.execute_ms, wait_ms=times.wait_ms,
        total_ms=times.total_ms, first_token_ms=order.first_token_ms, answer_ms=order.answer_ms,
        budget_bytes=model.budget_bytes, model_peak_bytes=model.ledger.peak_bytes, **_outcome(order),
    )  # fmt: skip


def _outcome(order: Order) -> dict[str, Any]:
    """How a text with a target turned out."""
    chosen, measured_ms = order.chosen, token_ms(order.token_steps)
    if chosen is None:
        return {}
    promise = chosen.promise
    return {
        "target_ms": chosen.target_ms, "predicted_ms": promise.predicted_ms, "measured_ms": measured_ms,
        "met": None if measured_ms is None else measured_ms <= chosen.target_ms, "reason": promise.reason,
        "predicted_loss": promise.predicted_loss, "predicted_peak_bytes": promise.predicted_peak_bytes,
    }  # fmt: skip


def _event(data: str) -> str:
    return f"data: {data}\n\n"
