"""The console at `GET /` (choose a user, see the ranked candidates, what search kept for each, and the stage times) and `GET /docs`.

Nothing on either page is loaded from elsewhere.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from model.item_hash import hash_item_id
from service.auth import Callers
from service.errors import Problem
from service.models import Models
from service.schemas import id_texts
from service.user_behaviors import UserBehaviors

_FOLDER = Path(__file__).parent
_FILES = {"console.js": "text/javascript", "docs.js": "text/javascript", "key.js": "text/javascript", "console.css": "text/css"}
_LISTED = 200
_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"


class ListedUser(msgspec.Struct):
    """A user to choose from."""

    user_id: str
    length: int


class ShownItem(msgspec.Struct):
    """What the page shows of an item; `text` is empty for an item that the artifact does not know."""

    item_id: str
    text: dict[str, str]


def console_router(callers: Callers, behaviors: UserBehaviors, models: Models) -> APIRouter:
    """The console, the page of the API, their files, and what they show of users and items."""
    router = APIRouter(include_in_schema=False)

    @router.get("/", response_model=None)
    async def page() -> Response:
        return _file("index.html", "text/html")

    @router.get("/console/users", response_model=None)
    async def users(request: Request, prefix: str = "") -> Response:
        """Up to 200 users, longest histories first among the first 100,000."""
        longest = await behaviors.longest(callers.caller(request, "behaviors"), prefix, _LISTED)
        return Response(msgspec.json.encode([ListedUser(*user) for user in longest]), media_type="application/json")

    @router.get("/docs", response_model=None)
    async def documentation() -> Response:
        return _file("docs.html", "text/html")

    @router.get("/console/items", response_model=None)
    async def items(request: Request) -> Response:
        """Texts of up to 200 items, asked for as `?id=A&id=B`, in their order."""
        callers.caller(request, "score")
        item_ids = request.query_params.getlist("id")
        if len(item_ids) > _LISTED:
            raise Problem(422, f"at most {_LISTED} ids, got {len(item_ids)}", pointer="/id")
        runtime = models.active.runtime
        shown = [ShownItem(item_id, runtime.item_text(hash_item_id(item_id))) for item_id in id_texts([*item_ids], "/id")]
        return Response(msgspec.json.encode(shown), media_type="application/json")

    @router.get("/console/{name}", response_model=None)
    async def file(name: str) -> Response:
        if name not in _FILES:
            raise Problem(404, f"no such file: {name[:100]}")
        return _file(name, _FILES[name])

    return router


def _file(name: str, media_type: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response((_FOLDER / name).read_bytes(), headers=headers, media_type=f"{media_type}; charset=utf-8")
