"""Past the framework's search for a route: what is asked a thousand times a second goes from the connection to its endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Handled = Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]


class DirectRoutes:
    """ASGI middleware: a POST to the path of one of `routes` is answered by its endpoint, which takes the request alone; all else takes the
    way of every request. Errors become the same answers there and here.

    Args: `handled` what answers an exception, by its type.
    """

    def __init__(self, app: ASGIApp, routes: Mapping[str, Route], handled: Handled) -> None:
        self._app, self._routes, self._handled = app, routes, handled

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
        except tuple(self._handled) as error:
            handler = next(handler for kind, handler in self._handled.items() if isinstance(error, kind))
            response = await handler(request, error)
        await response(scope, receive, send)
