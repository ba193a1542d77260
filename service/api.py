"""The HTTP routes: decode, hand to the scorer, encode (docs/http-api.md)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.errors import Problem, shown
from service.metrics import STAGES, Metrics
from service.request_context import request_id_of
from service.schemas import (
    MAX_TIMESTAMP,
    WIRE,
    BehaviorsAnswer,
    BehaviorsRequest,
    DeleteAnswer,
    RecommendRequest,
    ScoreRequest,
    decode,
    id_text,
)
from service.scorer import Scorer, Stages
from service.settings import Settings

_MAX_LISTED = 1000


def _body_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answer(name: str) -> dict[int | str, dict[str, Any]]:
    problem = {"description": "problem document", "content": {"application/problem+json": {"schema": {"type": "object"}}}}
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {200: {"description": "ok", "content": {"application/json": {"schema": schema}}}, "4XX": problem, "5XX": problem}


def create_router(settings: Settings, scorer: Scorer, metrics: Metrics, clock: Callable[[], float]) -> APIRouter:
    """The routes of version 1.

    Args: `clock` unix seconds, the default request time.
    """
    router = APIRouter()

    @router.post(
        "/v1/score", openapi_extra=_body_schema(ScoreRequest), responses=_answer("ScoreAnswer"), response_model=None, tags=["scoring"]
    )
    async def score(request: Request) -> Response:
        """Score candidates for one user, in order."""
        started, stages = time.monotonic(), Stages()
        wanted = decode(ScoreRequest, await _body(request, settings))
        answer = await scorer.score(wanted, request_id_of(request), int(clock()), stages, started)
        return _timed(answer, stages, started, metrics)

    @router.post(
        "/v1/recommend",
        openapi_extra=_body_schema(RecommendRequest),
        responses=_answer("RecommendAnswer"),
        response_model=None,
        tags=["scoring"],
    )
    async def recommend(request: Request) -> Response:
        """Retrieve candidates from the catalogue and rank them."""
        started, stages = time.monotonic(), Stages()
        wanted = decode(RecommendRequest, await _body(request, settings))
        answer = await scorer.recommend(wanted, request_id_of(request), int(clock()), stages, started)
        return _timed(answer, stages, started, metrics)

    @router.post(
        "/v1/behaviors",
        openapi_extra=_body_schema(BehaviorsRequest),
        responses=_answer("BehaviorsAnswer"),
        response_model=None,
        tags=["behaviors"],
    )
    async def post_behaviors(request: Request) -> Response:
        """Store behaviors; an answered behavior counts in the user's very next score."""
        appended = await scorer.append(decode(BehaviorsRequest, await _body(request, settings)))
        return _json(BehaviorsAnswer(request_id_of(request), appended.accepted, appended.duplicates))

    @router.get("/v1/users/{user_id:path}/behaviors", responses=_answer("UserBehaviorsAnswer"), response_model=None, tags=["behaviors"])
    async def get_behaviors(request: Request, user_id: str, limit: str = "100", before: str | None = None) -> Response:
        """A user's newest behaviors, newest first, optionally only those before a time."""
        user = _path_id(request, place=-2)
        how_many = _integer("limit", limit, 1, _MAX_LISTED)
        until = None if before is None else _integer("before", before, 0, MAX_TIMESTAMP)
        return _json(scorer.behaviors(user, how_many, until, request_id_of(request)))

    @router.delete("/v1/users/{user_id:path}", responses=_answer("DeleteAnswer"), response_model=None, tags=["behaviors"])
    async def delete_user(request: Request, user_id: str) -> Response:
        """Erase everything held about a user."""
        user = _path_id(request, place=-1)
        return _json(DeleteAnswer(request_id_of(request), await asyncio.to_thread(scorer.delete, user)))

    return router


def document(app: FastAPI) -> None:
    """Add the wire structs' schemas to the application's OpenAPI document."""
    _, components = msgspec.json.schema_components(WIRE, ref_template="#/components/schemas/{name}")
    original = app.openapi

    def openapi() -> dict[str, Any]:
        schema = original()
        schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


async def _body(request: Request, settings: Settings) -> bytes:
    """The request's body. Raises: Problem 413 too large, 415 compressed, 408 too slow."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem(415, f"content-encoding {shown(request.headers['content-encoding'])} is not accepted; send plain JSON")
    limit = settings.max_body_bytes
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limit:
        raise Problem(413, f"the body has {declared} bytes, at most {limit} are accepted")
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise Problem(413, f"the body is larger than the {limit} bytes accepted")
                parts.append(part)
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {settings.body_timeout_s} s") from None
    except ClientDisconnect:
        raise Problem(400, "the client went away while sending") from None
    return b"".join(parts)


def _json(answer: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")


def _timed(answer: msgspec.Struct, stages: Stages, started: float, metrics: Metrics) -> Response:
    content = msgspec.json.encode(answer)
    times = {name: getattr(stages, name, 0.0) for name in STAGES} | {"total": (time.monotonic() - started) * 1e3}
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
