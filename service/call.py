"""What travels with one request from the route to the answer: who calls, since when, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from starlette.requests import Request

from service.auth import Caller
from service.request_context import request_id_of


@dataclass(slots=True)
class Stages:
    """Times of one request's stages, ms."""

    queue: float = 0.0
    store: float = 0.0
    prepare: float = 0.0
    search: float = 0.0
    rank: float = 0.0

    def add(self, other: Stages) -> None:
        """Add the times of another request."""
        self.queue += other.queue
        self.store += other.store
        self.prepare += other.prepare
        self.search += other.search
        self.rank += other.rank

    def times(self, started: float) -> dict[str, float]:
        """The stages and their total since `started` (monotonic s), ms: what `Server-Timing` and the metrics show."""
        total = (time.monotonic() - started) * 1e3
        stages = {name: getattr(self, name) for name in ("queue", "store", "prepare", "search", "rank")}
        return stages | {"total": total}


@dataclass(slots=True)
class Call:
    """One request under way. `now` unix seconds by the server's clock; `started` monotonic s; `gone` returns once nobody waits for the
    answer any more, `left` says whether that is so by now."""

    request_id: str
    caller: Caller
    now: int
    gone: Callable[[], Awaitable[None]]
    left: Callable[[], Awaitable[bool]]
    started: float = field(default_factory=time.monotonic)
    stages: Stages = field(default_factory=Stages)

    @classmethod
    def of(cls, request: Request, caller: Caller, now: float) -> Call:
        """The call that a request makes. Its body has to be read before `gone` is awaited."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return cls(request_id_of(request), caller, max(0, int(now)), gone, request.is_disconnected)

    def part(self) -> Call:
        """The same call with stage times of its own: one request of a batch."""
        return replace(self, stages=Stages())
