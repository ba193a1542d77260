"""The application: constructs every long-lived object once and hands them to the routes."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from service.admission import Admission
from service.api import create_router, direct_routes, document
from service.auth import Callers
from service.behavior_store import BehaviorStore, StoreError
from service.console import console_router
from service.direct import DirectRoutes
from service.drain import Drain
from service.errors import Problem
from service.file_store import FileStore
from service.gate import Gate
from service.heap import keep_trimmed
from service.memory_store import MemoryStore
from service.metrics import Metrics
from service.models import Models
from service.open_inference import open_inference_router
from service.request_context import HANDLED, RequestContext, on_http_exception
from service.scorer import Scorer
from service.settings import Settings
from service.tracing import Tracing
from service.user_behaviors import UserBehaviors

_log = logging.getLogger("dare.service")


def open_store(url: str, settings: Settings | None = None, failed: Callable[[str], None] = lambda kind: None) -> BehaviorStore:
    """The behavior store of a URL: `memory:`, `file:DIR` or `redis://...`. Raises: StoreError.

    Args: `settings` of a shared store, None for the environment's; `failed` is told the kind of every failed call.
    """
    if url == "memory:":
        return MemoryStore()
    if url.startswith("file:") and len(url) > len("file:"):
        return FileStore(Path(url.removeprefix("file:")))
    if url.startswith("redis:"):
        return _open_redis(url, Settings() if settings is None else settings, failed)
    raise StoreError(f"store {url.rpartition('@')[2]!r} is not known; use memory:, file:DIR or redis://HOST:PORT/DB")


def _open_redis(url: str, settings: Settings, failed: Callable[[str], None]) -> BehaviorStore:
    try:
        from service.redis_store import RedisStore
    except ModuleNotFoundError as error:
        raise StoreError(f"a redis:// store needs the extra `redis` (pip install 'dare-serving[redis]'): {error}") from None
    return RedisStore(
        url,
        connections=settings.inference_threads + settings.store_threads,
        read_s=settings.store_timeout_ms / 1e3,
        write_s=settings.store_write_timeout_ms / 1e3,
        ttl_s=settings.store_ttl_days * 86_400,
        cache_bytes=settings.store_cache_bytes,
        stale_s=settings.store_stale_s,
        failed=failed,
    )


def refuse_workers(settings: Settings) -> None:
    """Raises: ValueError for more workers than the store allows."""
    if settings.workers > 1 and not settings.store.startswith("redis:"):
        raise ValueError(f"store {settings.store!r} lives in one process and workers is {settings.workers}; use --workers 1")


def create_app(settings: Settings, store: BehaviorStore | None = None, clock: Callable[[], float] = time.time) -> FastAPI:
    """The service for a loaded model and an open store.

    Args: `store` an open store to use, None opens `settings.store`; it is closed at shutdown. `clock` unix seconds.
    Raises: ArtifactError, StoreError, ValueError for no API keys where they are needed, and for more workers than the store allows.
    """
    refuse_workers(settings)
    callers = Callers(settings)
    tracing = Tracing(settings)
    metrics = Metrics()
    models = Models(settings, metrics)
    opened = open_store(settings.store, settings, lambda kind: metrics.store_failures.labels(kind).inc()) if store is None else store
    opened.on_erased(models.forget)
    queue = (settings.queue_length, settings.queue_wait_ms / 1e3, settings.retry_after_s, metrics)
    scoring, storing = Admission("score", settings.inference_threads, *queue), Admission("store", settings.store_threads, *queue)
    scorer = Scorer(settings, models, opened, metrics, scoring)
    behaviors = UserBehaviors(settings, models, opened, metrics, storing)
    gate = Gate({b"/v1/score": scoring, b"/v1/score:batch": scoring, b"/v1/recommend": scoring, b"/v1/behaviors": storing}, metrics)
    drain = Drain(settings.drain_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _log.info("serving %s", models.active.runtime.describe())
        background = [asyncio.create_task(models.follow()), asyncio.create_task(keep_trimmed())]
        with drain.announced(), _keys_read_again(settings, callers):
            yield
        for task in background:
            task.cancel()
        await scorer.close()
        models.close()
        behaviors.close()
        tracing.close()

    app = FastAPI(
        title="dare-serving",
        version="1",
        description="Score candidates against a user's whole behavior history.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # behind a proxy that ends TLS it would send callers, with their keys, to http://
        separate_input_output_schemas=False,
        telemetry=tracing.telemetry(),
    )
    app.state.models, app.state.metrics, app.state.gate = models, metrics, gate
    router = create_router(settings, callers, scorer, behaviors, models, metrics, tracing, clock)
    app.include_router(router)
    app.include_router(open_inference_router(settings, callers, scorer, models, metrics, clock, lambda: drain.draining))
    app.include_router(console_router(callers, behaviors, models))
    _operations(app, models, opened, drain, metrics)
    document(app)
    if not tracing.on:  # the framework's spans begin at its routes
        app.add_middleware(DirectRoutes, routes=direct_routes(router), handled=HANDLED)
    app.add_middleware(RequestContext, metrics=metrics, max_header_bytes=settings.max_header_bytes)
    for kind, handler in HANDLED.items():
        app.add_exception_handler(kind, handler)
    app.add_exception_handler(HTTPException, on_http_exception)
    return app


@contextmanager
def _keys_read_again(settings: Settings, callers: Callers) -> Iterator[None]:
    """While this lasts, SIGHUP has the key file, where there is one, read again. Only the main thread gets signals."""
    if settings.api_keys is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def reload() -> None:
        try:
            callers.reload()
        except ValueError as error:
            _log.error("the keys stay as they were: %s", error)
        else:
            _log.info("the keys were read again")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _operations(app: FastAPI, models: Models, store: BehaviorStore, drain: Drain, metrics: Metrics) -> None:
    @app.head("/livez", response_model=None, include_in_schema=False)
    @app.get("/livez", response_model=None, tags=["operations"])
    async def livez() -> Response:
        """The process answers."""
        return _plain({"status": "alive"})

    problem = {"description": "problem document", "content": {"application/problem+json": {"schema": {"type": "object"}}}}

    @app.head("/readyz", response_model=None, include_in_schema=False)
    @app.get("/readyz", response_model=None, responses={503: problem}, tags=["operations"])
    async def readyz() -> Response:
        """A model is loaded and the server is not draining; says which backends run and why, and whether the store answers."""
        if drain.draining:
            raise Problem(503, "the server is about to stop", retry_after_s=1, kind="draining")
        available = await asyncio.to_thread(store.available)
        return _plain({"status": "ready", "degraded": not available, "model": models.active.runtime.describe()})

    @app.head("/metrics", response_model=None, include_in_schema=False)
    @app.get("/metrics", response_model=None, response_class=PlainTextResponse, tags=["operations"])
    async def prometheus() -> Response:
        """Prometheus metrics."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _plain(value: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
