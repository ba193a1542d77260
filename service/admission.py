"""Admission: how many requests may be scored, how many may wait, and until when."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import Problem
from service.metrics import Metrics


class Deadline:
    """An absolute point in monotonic time; None means as long as the server itself allows."""

    def __init__(self, budget_ms: int | None, started: float) -> None:
        self.at = None if budget_ms is None else started + budget_ms / 1e3

    def left_s(self) -> float:
        """Time left, never negative."""
        return math.inf if self.at is None else max(0.0, self.at - time.monotonic())

    def check(self, stage: str) -> None:
        """Raises: Problem 504 when the deadline has passed."""
        if self.left_s() == 0.0:
            raise self.missed(stage)

    def missed(self, stage: str) -> Problem:
        """The answer of a request whose time ran out."""
        return Problem(504, f"budget_ms ran out before {stage}", kind="deadline-passed")


class Admission:
    """Permits for the threads of one kind of work.

    Args: `work` its name in the metrics; `permits` requests worked on at once; `queue_length` that may wait; `queue_wait_s` the longest
    wait; `retry_after_s` what a refused caller is told.
    """

    def __init__(self, work: str, permits: int, queue_length: int, queue_wait_s: float, retry_after_s: int, metrics: Metrics) -> None:
        self._work = work
        self._semaphore = asyncio.Semaphore(permits)
        self._queue_length = queue_length
        self._queue_wait_s = queue_wait_s
        self._retry_after_s = retry_after_s
        self._metrics = metrics
        self._waiting = 0

    @asynccontextmanager
    async def permit(self, deadline: Deadline) -> AsyncIterator[float]:
        """Hold a permit; yields the wait in ms. Raises: Problem 503 when full or waited too long; 504 past the deadline."""
        if self._semaphore.locked() and self._waiting >= self._queue_length:
            raise self._refused("queue_full", f"{self._waiting} requests are waiting already")
        started = time.monotonic()
        left_s = deadline.left_s()
        wait_s = min(self._queue_wait_s, left_s)
        self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await self._semaphore.acquire()
        except TimeoutError:
            # The timer may end a wait a little early, so what bounded the wait decides, not the clock.
            if left_s <= self._queue_wait_s:
                raise deadline.missed("a thread was free") from None
            raise self._refused("queue_wait", f"no thread was free within {wait_s * 1e3:.0f} ms") from None
        finally:
            self._waiting -= 1
        self._metrics.in_flight.labels(self._work).inc()
        try:
            # Work that nobody waits for any more is dropped before it costs compute.
            deadline.check("work began")
            yield (time.monotonic() - started) * 1e3
        finally:
            self._metrics.in_flight.labels(self._work).dec()
            self._semaphore.release()

    def _refused(self, reason: str, detail: str) -> Problem:
        self._metrics.refused.labels(self._work, reason).inc()
        return Problem(503, f"overloaded: {detail}", retry_after_s=self._retry_after_s, kind="overloaded")
