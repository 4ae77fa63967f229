"""A ceiling on request bodies, declared or chunked, before anything parses them."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_handlers import framework_problem


class BodyTooLarge(HTTPException):
    """More bytes than allowed.

    An HTTPException, because FastAPI turns every other error that is raised while it
    reads a body into a 400.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(413, f"The body is larger than {limit_bytes} bytes.")


class BodyLimitMiddleware:
    """Refuse a body that is, or turns out to be, longer than `limit_bytes`."""

    def __init__(self, app: ASGIApp, *, limit_bytes: int) -> None:
        self._app = app
        self._limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413, or count what the application inside reads."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit_bytes:
            error = BodyTooLarge(self._limit_bytes)
            response = framework_problem(Request(scope), error)
            await response(scope, receive, send)
            return
        await self._app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit_bytes:
                    raise BodyTooLarge(self._limit_bytes)
            return message

        return counted
