"""Errors as HTTP answers: OpenAI's error object with one clear line, never a traceback."""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from device_agent.pipeline import Cancelled
from device_agent.schemas import ErrorAnswer, ErrorBody
from device_agent.worker import BusyError, JobFailedError, LoadFailedError, NotLoadedError
from shard_store.errors import (
    BudgetError,
    ChecksumError,
    FormatError,
    PlanError,
    RequestError,
    StiError,
)  # fmt: skip

RETRY_SECONDS = 1
INVALID_REQUEST = "invalid_request_error"

_HTTP_CODES = {400: "invalid_json", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}

logger = logging.getLogger(__name__)

# The first class that fits decides, so subclasses come before their bases.
_STI_ERRORS: tuple[tuple[type[StiError], int, str, str], ...] = (
    (RequestError, 400, INVALID_REQUEST, "invalid_request"),
    (BudgetError, 400, INVALID_REQUEST, "budget_too_small"),
    (PlanError, 400, INVALID_REQUEST, "invalid_plan"),
    (Cancelled, 503, "unavailable", "cancelled"),
    (ChecksumError, 500, "store_error", "checksum"),
    (FormatError, 500, "store_error", "format"),
    (StiError, 500, "agent_error", "runtime"),
)


class UnknownModelError(RequestError):
    """A request names a model that is not the one loaded."""


def error_answer(
    status: int,
    kind: str,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error object as a response."""
    body = ErrorAnswer(error=ErrorBody(message=message, type=kind, param=param, code=code))
    return Response(body.model_dump_json(), status, headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Answer everything that can go wrong in the same shape."""
    app.add_exception_handler(StiError, _sti_error)
    app.add_exception_handler(NotLoadedError, _not_loaded)
    app.add_exception_handler(LoadFailedError, _load_failed)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(JobFailedError, _job_failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)


async def _sti_error(request: Request, error: Exception) -> Response:
    if isinstance(error, UnknownModelError):
        return error_answer(404, INVALID_REQUEST, "model_not_found", str(error), param="model")
    status, kind, code = next((s, k, c) for known, s, k, c in _STI_ERRORS if isinstance(error, known))
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s: %s", request.url.path, error)
    return error_answer(status, kind, code, str(error))


async def _not_loaded(_: Request, __: Exception) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return error_answer(503, "unavailable", "loading", "the model is still being loaded; try again", headers=headers)


async def _load_failed(_: Request, error: Exception) -> Response:
    return error_answer(500, "load_failed", "load_failed", str(error))


async def _busy(_: Request, error: Exception) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return error_answer(429, "unavailable", "busy", str(error), headers=headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        message = f"the body is not valid JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return error_answer(400, INVALID_REQUEST, "invalid_json", message)
    place = [str(part) for part in first["loc"][1:] if part not in {"text", "texts", "pairs"}]
    if not place:
        message = "the body must be a JSON object, sent with Content-Type: application/json"
        return error_answer(400, INVALID_REQUEST, "invalid_json", message)
    text = first["msg"].splitlines()[0]
    message = f"{'.'.join(place)}: {text[0].lower()}{text[1:]}"
    return error_answer(400, INVALID_REQUEST, "invalid_request", message, param=place[0])


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _HTTP_CODES.get(error.status_code, "http")
    return error_answer(error.status_code, INVALID_REQUEST, code, str(error.detail), headers=error.headers)


async def _job_failed(_: Request, error: Exception) -> Response:
    return error_answer(500, "agent_error", "internal", str(error))


async def _unexpected(_: Request, error: Exception) -> Response:
    # A mistake in the service itself. The server logs the traceback.
    return error_answer(500, "agent_error", "internal", f"the agent failed unexpectedly ({type(error).__name__})")
