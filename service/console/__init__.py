"""The console at `GET /`: choose a user, see the ranked candidates, what search kept for each, and the stage times."""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from service.errors import Problem
from service.user_behaviors import UserBehaviors

_FOLDER = Path(__file__).parent
_FILES = {"console.js": "text/javascript", "console.css": "text/css"}
_LISTED = 200
_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"


class ListedUser(msgspec.Struct):
    """A user to choose from."""

    user_id: str
    length: int


def console_router(behaviors: UserBehaviors) -> APIRouter:
    """The page, its two files, and the users it offers."""
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_model=None)
    async def page() -> Response:
        return _file("index.html", "text/html")

    @router.get("/console/users", response_model=None)
    async def users(prefix: str = "") -> Response:
        """Up to 200 users, longest histories first among the first 100,000."""
        longest = await behaviors.longest(prefix, _LISTED)
        return Response(msgspec.json.encode([ListedUser(*user) for user in longest]), media_type="application/json")

    @router.get("/console/{name}", response_model=None)
    async def file(name: str) -> Response:
        if name not in _FILES:
            raise Problem(404, f"no such file: {name[:100]}")
        return _file(name, _FILES[name])

    return router


def _file(name: str, media_type: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response((_FOLDER / name).read_bytes(), headers=headers, media_type=f"{media_type}; charset=utf-8")
