"""The HTTP routes: decode, hand to the scorer, encode (docs/http-api.md)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.auth import Callers
from service.behavior_store import MAX_LENGTH
from service.call import Call
from service.errors import Problem, shown
from service.metrics import Metrics
from service.models import Models
from service.openapi import completed
from service.request_body import read_body
from service.request_context import request_id_of
from service.schemas import (
    MAX_LISTED,
    MAX_TIMESTAMP,
    BatchRequest,
    BehaviorsAnswer,
    BehaviorsRequest,
    DeleteAnswer,
    Model,
    ModelsAnswer,
    RecommendRequest,
    ScoreRequest,
    decode,
    id_text,
)
from service.scorer import Scorer
from service.settings import Settings
from service.tracing import Tracing
from service.user_behaviors import UserBehaviors

_SCORE = {"user_id": "1", "candidates": ["1029743", "908531"], "timestamp": 1_514_764_800, "explain": 3}
_POSTED = {"user_id": "1", "item_id": "1029743", "timestamp": 1_514_764_800, "event_id": "basket-7/1"}
_EXAMPLES: dict[type[msgspec.Struct], dict[str, Any]] = {
    ScoreRequest: _SCORE,
    BatchRequest: {"requests": [_SCORE]},
    RecommendRequest: {"user_id": "1", "limit": 5, "timestamp": 1_514_764_800},
    BehaviorsRequest: {"behaviors": [_POSTED]},
}


class WireRoute(APIRoute):
    """A route that reads its request itself: FastAPI documents it and stays out of its way, a tenth of a millisecond a request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`. The endpoint takes the request alone."""
        handler: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return handler


def _documented(kind: type[msgspec.Struct], answer: str, tag: str) -> dict[str, Any]:
    """What FastAPI is told of a route that reads its request itself: a `kind`, answered by the schema `answer`."""
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    body = {"required": True, "content": {"application/json": {"schema": schema, "example": _EXAMPLES[kind]}}}
    return {"openapi_extra": {"requestBody": body}, **_answered(answer, tag)}


def _answered(answer: str, tag: str) -> dict[str, Any]:
    problem = {"description": "problem document", "content": {"application/problem+json": {"schema": {"type": "object"}}}}
    schema = {"$ref": f"#/components/schemas/{answer}"}
    ok = {"description": "ok", "content": {"application/json": {"schema": schema}}}
    return {"responses": {200: ok, "4XX": problem, "5XX": problem}, "response_model": None, "tags": [tag]}


def create_router(
    settings: Settings,
    callers: Callers,
    scorer: Scorer,
    behaviors: UserBehaviors,
    models: Models,
    metrics: Metrics,
    tracing: Tracing,
    clock: Callable[[], float],
) -> APIRouter:
    """The routes of version 1.

    Args: `clock` unix seconds, the default request time.
    """
    # Routes are tried in turn: those that answer thousands of times a second come first.
    router = APIRouter(route_class=WireRoute)
    _scoring(router, settings, callers, scorer, metrics, tracing, clock)
    _posting(router, settings, callers, behaviors, tracing, clock)
    others = APIRouter()
    _users(others, callers, behaviors)
    _versions(others, callers, models)
    router.include_router(others)
    return router


def _scoring(
    router: APIRouter,
    settings: Settings,
    callers: Callers,
    scorer: Scorer,
    metrics: Metrics,
    tracing: Tracing,
    clock: Callable[[], float],
) -> None:
    @router.post("/v1/score", **_documented(ScoreRequest, "ScoreAnswer", "scoring"))
    async def score(request: Request) -> Response:
        """Score candidates for one user, in order."""
        call = Call.of(request, callers.caller(request, "score"), clock())
        answer = await scorer.score(decode(ScoreRequest, await read_body(request, settings)), call)
        return _timed(answer, call, tracing, metrics)

    @router.post("/v1/score:batch", **_documented(BatchRequest, "BatchAnswer", "scoring"))
    async def score_batch(request: Request) -> Response:
        """Score several requests, answered in order, each with its own status; the stage times are their sums."""
        call = Call.of(request, callers.caller(request, "score"), clock())
        answer = await scorer.score_batch(decode(BatchRequest, await read_body(request, settings)), call)
        return _timed(answer, call, tracing)

    @router.post("/v1/recommend", **_documented(RecommendRequest, "RecommendAnswer", "scoring"))
    async def recommend(request: Request) -> Response:
        """Retrieve candidates from the catalogue and rank them."""
        call = Call.of(request, callers.caller(request, "score"), clock())
        answer = await scorer.recommend(decode(RecommendRequest, await read_body(request, settings)), call)
        return _timed(answer, call, tracing, metrics)


def _posting(
    router: APIRouter, settings: Settings, callers: Callers, behaviors: UserBehaviors, tracing: Tracing, clock: Callable[[], float]
) -> None:
    @router.post("/v1/behaviors", **_documented(BehaviorsRequest, "BehaviorsAnswer", "behaviors"))
    async def post_behaviors(request: Request) -> Response:
        """Store behaviors; an answered behavior counts in the user's very next score."""
        call = Call.of(request, callers.caller(request, "behaviors"), clock())
        appended = await behaviors.append(decode(BehaviorsRequest, await read_body(request, settings)), call)
        return _timed(BehaviorsAnswer(call.request_id, appended.accepted, appended.duplicates), call, tracing)


def _users(router: APIRouter, callers: Callers, behaviors: UserBehaviors) -> None:
    @router.get("/v1/users/{user_id:path}/behaviors", **_answered("UserBehaviorsAnswer", "behaviors"))
    async def get_behaviors(request: Request, user_id: str, limit: str = "100", before: str | None = None, skip: str = "0") -> Response:
        """A user's newest behaviors, newest first, optionally only those before a time; `skip` turns pages, also within one time."""
        caller = callers.caller(request, "behaviors")
        user = _path_id(request, place=-2)
        how_many = _integer("limit", limit, 1, MAX_LISTED)
        until = None if before is None else _integer("before", before, 0, MAX_TIMESTAMP)
        skipped = _integer("skip", skip, 0, MAX_LENGTH)
        return _json(await behaviors.listed(caller, user, how_many, until, skipped, request_id_of(request)))

    @router.delete("/v1/users/{user_id:path}", **_answered("DeleteAnswer", "behaviors"))
    async def delete_user(request: Request, user_id: str) -> Response:
        """Erase everything held about a user."""
        caller = callers.caller(request, "behaviors")
        user = _path_id(request, place=-1)
        return _json(DeleteAnswer(request_id_of(request), await behaviors.delete(caller.user(user))))


def _versions(router: APIRouter, callers: Callers, models: Models) -> None:
    @router.get("/v1/models", **_answered("ModelsAnswer", "models"))
    async def get_models(request: Request) -> Response:
        """The model versions in the artifacts directory, and which of them answers."""
        callers.caller(request, "admin")
        return _json(_described(models, request_id_of(request)))

    @router.post("/v1/models/{version}:activate", **_answered("ModelsAnswer", "models"))
    async def activate_model(request: Request, version: str) -> Response:
        """Verify, load and warm a version, then answer with it; requests that run finish on the one they began with."""
        callers.caller(request, "admin")
        await models.activate(version)
        return _json(_described(models, request_id_of(request)))

    @router.post("/v1/models:rollback", **_answered("ModelsAnswer", "models"))
    async def rollback_model(request: Request) -> Response:
        """Activate the version that was current before."""
        callers.caller(request, "admin")
        await models.rollback()
        return _json(_described(models, request_id_of(request)))


def direct_routes(router: APIRouter) -> dict[str, Route]:
    """The routes that read their requests themselves, by path."""
    return {route.path: route for route in router.routes if isinstance(route, WireRoute)}


def document(app: FastAPI) -> None:
    """Complete the application's OpenAPI document."""
    original = app.openapi
    app.openapi = lambda: completed(original())  # type: ignore[method-assign]


def _described(models: Models, request_id: str) -> ModelsAnswer:
    runtime = models.active.runtime
    listed = [Model(version, "active" in roles, roles) for version, roles in models.listed()]
    return ModelsAnswer(request_id, listed, models.previous(), runtime.as_of, runtime.metrics)


def _json(answer: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")


def _timed(answer: msgspec.Struct, call: Call, tracing: Tracing, metrics: Metrics | None = None) -> Response:
    content = msgspec.json.encode(answer)
    times = call.stages.times(call.started)
    tracing.stages(call)
    if metrics is not None:
        metrics.observe(times)
    header = ", ".join(f"{name};dur={value:.3f}" for name, value in times.items())
    return Response(content, headers={"Server-Timing": header}, media_type="application/json")


def _path_id(request: Request, place: int) -> str:
    """The id in segment `place` of the path as sent: an id may hold a slash, which travels as %2F. Raises: Problem 404, 422."""
    segments: list[bytes] = request.scope["raw_path"].split(b"/")
    if segments[place - 1] != b"users":
        raise Problem(404, f"no such path: {request.url.path[:200]}; a slash within an id is sent as %2F")
    try:
        user_id = unquote_to_bytes(segments[place]).decode()
    except UnicodeDecodeError:
        raise Problem(422, f"user_id is not UTF-8, got {shown(segments[place].decode('latin-1'))}", pointer="/user_id") from None
    if not 1 <= len(user_id) <= 128:
        raise Problem(422, f"user_id has 1 to 128 characters, got {shown(user_id)}", pointer="/user_id")
    return id_text(user_id, "/user_id")


def _integer(name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and low <= int(value) <= high):
        raise Problem(422, f"{name} must be an integer in {low}..{high}, got {shown(value)}", pointer=f"/{name}")
    return int(value)
