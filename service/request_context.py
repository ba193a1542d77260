"""What every request gets, around the routes: an id, a count, a problem document for whatever goes wrong."""

from __future__ import annotations

import logging
import secrets
import string
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.behavior_store import StoreFull, StoreUnavailable
from service.direct import Handled
from service.errors import Problem, problem_response
from service.metrics import Metrics

_log = logging.getLogger("dare.service")
_ALLOWED = frozenset(string.ascii_letters + string.digits + "-_.:/+=")


def request_id_of(request: Request) -> str:
    """The id given to this request."""
    request_id: str = request.scope["state"]["request_id"]
    return request_id


class RequestContext:
    """ASGI middleware: takes or makes `X-Request-ID`, answers it back, refuses huge headers, answers what no route foresaw with a generic
    problem document, counts answers by route and status.

    Args: `max_header_bytes` of all names and values of one request together.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, max_header_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_header_bytes = max_header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = given_id(scope["headers"]) or secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        status = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            size = sum(len(name) + len(value) for name, value in scope["headers"])
            if size > self._max_header_bytes:
                detail = f"the headers have {size} bytes, at most {self._max_header_bytes} are accepted"
                await problem_response(Problem(431, detail), request_id, scope["path"])(scope, receive, send_with_id)
            else:
                await self._app(scope, receive, send_with_id)
        except Exception as error:
            # The trace stays in the log, under the id that the caller is given.
            _log.error("request %s: %s %s failed", request_id, scope["method"], ascii(scope["path"][:200]), exc_info=error)
            if status is not None:
                raise  # the answer has begun: all that is left is to cut the connection
            problem = Problem(500, "internal error; the log names it under this request_id")
            await problem_response(problem, request_id, scope["path"])(scope, receive, send_with_id)
        finally:
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path_format", "unmatched"), str(status or "aborted")).inc()


def given_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id that a caller gives a request; None for none, or one that cannot be used."""
    for name, value in headers:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if 0 < len(text) <= 128 and set(text) <= _ALLOWED else None
    return None


async def on_problem(request: Request, error: Exception) -> Response:
    """A `Problem` as its document."""
    assert isinstance(error, Problem)
    return problem_response(error, request_id_of(request), request.url.path)


async def on_store_full(request: Request, error: Exception) -> Response:
    """A full store refuses behaviors; scoring goes on."""
    return problem_response(Problem(503, str(error), retry_after_s=5, kind="store-full"), request_id_of(request), request.url.path)


async def on_store_unavailable(request: Request, error: Exception) -> Response:
    """What needs the store has to come back later; scoring goes on without it."""
    assert isinstance(error, StoreUnavailable)
    _log.warning("request %s: the store is unavailable: %s", request_id_of(request), error)
    problem = Problem(503, "the behavior store does not answer; sent again with its event_id a behavior is stored once", retry_after_s=1)
    problem.kind = "store-unavailable"
    return problem_response(problem, request_id_of(request), request.url.path)


HANDLED: Handled = {Problem: on_problem, StoreFull: on_store_full, StoreUnavailable: on_store_unavailable}
"""What answers an exception that a route raises."""


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own errors (unknown path, wrong method)."""
    assert isinstance(error, HTTPException)
    detail = {404: f"no such path: {request.url.path[:200]}", 405: f"{request.method} is not allowed here"}.get(
        error.status_code, str(error.detail)
    )
    response = problem_response(Problem(error.status_code, detail), request_id_of(request), request.url.path)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
