"""ASGI middleware that refuses request bodies beyond a limit, before they are in memory."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DEFAULT_BODY_BYTES = 1 << 20


class BodyLimit:
    """Raises a 413 inside the application, which answers it like any other error."""

    def __init__(self, app: ASGIApp, limit_bytes: int = DEFAULT_BODY_BYTES) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what the application receives."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if max(received, declared) > self._limit_bytes:
                raise HTTPException(
                    413, f"the body is larger than {self._limit_bytes} bytes; send fewer inputs at a time"
                )
            return message

        declared = _declared_bytes(scope)
        await self._app(scope, counted, send)


def _declared_bytes(scope: Scope) -> int:
    """Content-Length, or 0 where there is none that can be read; then the counting alone decides."""
    headers = dict(scope.get("headers", ()))
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return 0
