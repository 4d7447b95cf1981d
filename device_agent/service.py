"""The HTTP interface of one loaded model (docs/http.md)."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar, cast

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel

from device_agent.answers import classification_list, embedding_list, embedding_size, model_card
from device_agent.body_limit import DEFAULT_BODY_BYTES, BodyLimit
from device_agent.completions import add_completions
from device_agent.failures import RETRY_SECONDS, UnknownModelError, add_error_handlers
from device_agent.goal import Goal
from device_agent.memory import MIB
from device_agent.plan import parse_plan
from device_agent.plan_choice import PlanChoice
from device_agent.process_memory import process_memory
from device_agent.report import Answer
from device_agent.schemas import (
    Budget,
    ClassificationList,
    ClassifyRequest,
    EmbeddingList,
    EmbeddingRequest,
    ErrorAnswer,
    Health,
    ImageClassifyRequest,
    ModelList,
    RunOptions,
)  # fmt: skip
from device_agent.text import Text
from device_agent.worker import MAX_WAITING, Gone, LoadFailedError, Model, NotLoadedError, Worker
from shard_store.errors import RequestError
from shard_store.head import HeadKind
from shard_store.manifest import Manifest

T = TypeVar("T")
_CLASSIFIERS = (HeadKind.SEQUENCE_CLASSIFICATION, HeadKind.TOKEN_CLASSIFICATION)
_ROUTES = {
    HeadKind.EMBEDDING: "/v1/embeddings",
    HeadKind.SEQUENCE_CLASSIFICATION: "/v1/classify",
    HeadKind.TOKEN_CLASSIFICATION: "/v1/classify",
    HeadKind.LANGUAGE_MODEL: "/v1/completions",
}
_ERRORS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorAnswer} for status in (400, 404, 413, 429, 500, 503)
}


def create_app(
    load: Callable[[], Model],
    default: PlanChoice | None = None,
    body_bytes: int = DEFAULT_BODY_BYTES,
    max_waiting: int = MAX_WAITING,
) -> FastAPI:
    """The application. `load` runs in the background from start-up on; `default` fills in what requests leave open."""
    default = default or PlanChoice()
    worker = Worker(_checked(load, default), max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await worker.close()

    app = FastAPI(title="sti agent", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, limit_bytes=body_bytes)
    add_error_handlers(app)
    _add_status(app, worker)
    _add_inference(app, worker, default)
    add_completions(app, worker, default)
    return app


def _checked(load: Callable[[], Model], default: PlanChoice) -> Callable[[], Model]:
    """Loading, refused at once if the store cannot run the default plan."""

    def checked() -> Model:
        model = load()
        try:
            model.ready(default.resolve(model), default.goal)
        except BaseException:
            model.close()
            raise
        return model

    return checked


def _add_status(app: FastAPI, worker: Worker) -> None:
    started = int(time.time())

    @app.get("/health", response_model=Health, responses={500: {"model": Health}, 503: {"model": Health}})
    async def health() -> Response:
        status, answer = _health(worker)
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
        return Response(answer.model_dump_json(exclude_none=True), status, headers, "application/json")

    @app.put("/v1/budget", responses=_ERRORS)
    async def budget(body: Budget, request: Request) -> Budget:
        def job(model: Model, _: Gone) -> float:
            model.set_budget(int(body.memory_mb * MIB))
            return model.budget_bytes / MIB

        return Budget(memory_mb=await _in_turn(request, worker, job))

    @app.get("/v1/models", responses=_ERRORS)
    async def models() -> ModelList:
        return ModelList(data=[model_card(worker.model.manifest, started)])


def _health(worker: Worker) -> tuple[int, Health]:
    memory = process_memory()
    health = Health(
        status="loading", pid=os.getpid(), waiting=worker.waiting,
        process_resident_bytes=memory.resident_bytes, process_peak_bytes=memory.peak_resident_bytes,
    )  # fmt: skip
    try:
        model = worker.model
    except NotLoadedError:
        return 503, health
    except LoadFailedError as error:
        return 500, health.model_copy(update={"status": "failed", "reason": str(error)})
    loaded = {
        "status": "ok", "model": model.manifest.description.model,
        "budget_bytes": model.budget_bytes, "model_held_bytes": model.ledger.held_bytes,
    }  # fmt: skip
    return 200, health.model_copy(update=loaded)


def _add_inference(app: FastAPI, worker: Worker, default: PlanChoice) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingList, responses=_ERRORS)
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        manifest = worker.model.manifest
        _check_embedding(manifest, body)

        def answered(answer: Answer) -> BaseModel:
            return embedding_list(manifest, answer, body.encoding_format, show_plan=body.show_plan)

        choice = _choice(body).over(default)
        return await _infer(request, worker, texts=body.texts, choice=choice, truncate=body.truncate, answered=answered)

    @app.post("/v1/classify", response_model=ClassificationList, responses=_ERRORS)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        manifest = worker.model.manifest
        _check_model_name(manifest, body.model)
        _check_kind(manifest, *_CLASSIFIERS)
        if manifest.description.image is not None:
            raise RequestError(f"{manifest.description.model} reads images; ask /v1/images/classify")

        def answered(answer: Answer) -> BaseModel:
            return classification_list(manifest, answer, show_plan=body.show_plan)

        choice = _choice(body).over(default)
        return await _infer(request, worker, texts=body.texts, choice=choice, truncate=body.truncate, answered=answered)

    @app.post("/v1/images/classify", response_model=ClassificationList, responses=_ERRORS)
    async def classify_images(body: ImageClassifyRequest, request: Request) -> Response:
        manifest = worker.model.manifest
        _check_model_name(manifest, body.model)
        _check_kind(manifest, *_CLASSIFIERS)
        if manifest.description.image is None:
            raise RequestError(f"{manifest.description.model} reads texts; ask /v1/classify")

        def answered(answer: Answer) -> BaseModel:
            return classification_list(manifest, answer, show_plan=body.show_plan)

        images = cast(Sequence[Text], body.images)  # the model's encoder tells them apart
        choice = _choice(body).over(default)
        return await _infer(request, worker, texts=images, choice=choice, truncate=False, answered=answered)


async def _infer(
    request: Request, worker: Worker, *, texts: Sequence[Text], choice: PlanChoice, truncate: bool,
    answered: Callable[[Answer], BaseModel],
) -> Response:  # fmt: skip
    def job(model: Model, gone: Gone) -> str:
        # The JSON of a large batch takes a while, so it is written here and not on the event loop.
        plan = choice.resolve(model)
        answer = model.answer(texts, plan, goal=choice.goal, truncate=truncate, cancelled=gone)
        return answered(answer).model_dump_json(exclude_none=True)

    return Response(await _in_turn(request, worker, job), media_type="application/json")


async def _in_turn(request: Request, worker: Worker, job: Callable[[Model, Gone], T]) -> T:
    gone = asyncio.create_task(_disconnected(request))
    try:
        return await worker.run(job, gone)
    finally:
        gone.cancel()


async def _disconnected(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _choice(body: RunOptions) -> PlanChoice:
    plan = None if body.plan is None else parse_plan(body.plan)
    memory_bytes = None if body.memory_mb is None else int(body.memory_mb * MIB)
    return PlanChoice(body.bits, body.layers, body.slices, plan, Goal(body.target_ms, memory_bytes))


def _check_embedding(manifest: Manifest, body: EmbeddingRequest) -> None:
    _check_model_name(manifest, body.model)
    model, size = manifest.description, embedding_size(manifest)
    _check_kind(manifest, HeadKind.EMBEDDING)
    if body.dimensions not in {None, size}:
        raise RequestError(f"dimensions: {body.dimensions} asked, {model.model} has {size}; leave the field out")


def _check_kind(manifest: Manifest, *kinds: HeadKind) -> None:
    """Raise RequestError, with the route to ask, for a model of another task."""
    model = manifest.description
    if model.head.kind not in kinds:
        raise RequestError(
            f"{model.model} is for {model.head.kind.value.replace('_', ' ')}; ask {_ROUTES[model.head.kind]}"
        )


def _check_model_name(manifest: Manifest, name: str | None) -> None:
    if name not in {None, manifest.description.model}:
        raise UnknownModelError(f"model {name!r} is not loaded; this agent has {manifest.description.model!r}")
