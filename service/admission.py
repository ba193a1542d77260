"""Admission: how many requests may be scored, how many may wait, and until when."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from service.errors import Problem
from service.metrics import Metrics

_REASONS = ("queue_full", "queue_slow", "queue_wait", "client_gone")
_PERMIT = "permit"
"""What ends a wait well; all else that ends one is a reason."""
_WEIGHT = 0.05
"""Of the newest observation in the moving average of how long a permit is held."""


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
    """Permits for the threads of one kind of work, handed on in the order of arrival; used on one event loop.

    Args: `work` its name in the metrics; `permits` requests worked on at once; `queue_length` that may wait; `queue_wait_s` the longest
    wait; `retry_after_s` what a refused caller is told.
    """

    def __init__(self, work: str, permits: int, queue_length: int, queue_wait_s: float, retry_after_s: int, metrics: Metrics) -> None:
        self._permits = self._free = permits
        self._held_s = 0.0
        self._queue_length = queue_length
        self._queue_wait_s = queue_wait_s
        self._retry_after_s = retry_after_s
        # Children are looked up once: their look-up costs as much as a refusal.
        self._in_flight, self._waits = metrics.in_flight.labels(work), metrics.waiting.labels(work)
        self._refused = {reason: metrics.refused.labels(work, reason) for reason in _REASONS}
        self._waiting: deque[tuple[float, asyncio.Future[str]]] = deque()

    @property
    def free(self) -> int:
        """Permits that nobody holds or waits for."""
        return self._free

    @property
    def idle(self) -> bool:
        """Whether a permit is free: time for what can be left undone."""
        return self._free > 0

    def refusal(self) -> Problem | None:
        """The answer, counted, to whoever would be refused on arrival; None for who gets a permit or may wait for one."""
        if self._free:
            return None
        self._drop_expired(time.monotonic())
        waiting = len(self._waiting)
        if waiting >= self._queue_length:
            return self._overloaded("queue_full", f"{waiting} requests are waiting already")
        # Whoever would wait in vain is told at once, while the caller can still do something else. Half the longest wait is planned
        # with: times vary, and who is told only at the end of the wait has lost most. The first in line always waits.
        expected_s = (waiting + 1) * self._held_s / self._permits
        if waiting and expected_s > self._queue_wait_s / 2:
            return self._overloaded("queue_slow", f"a wait of {expected_s * 1e3:.0f} ms is to be expected")
        return None

    @asynccontextmanager
    async def permit(self, deadline: Deadline, gone: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[float]:
        """Hold a permit; yields the wait in ms.

        Args: `gone` returns once nobody waits for the answer any more: the wait ends then.
        Raises: Problem 503 when full or waited too long; 504 past the deadline; 400 for a caller that went away.
        """
        started = time.monotonic()
        if self._free:
            self._free -= 1
        else:
            await self._turn(started, deadline, gone)
        self._in_flight.inc()
        began = time.monotonic()
        try:
            # Work that nobody waits for any more is dropped before it costs compute.
            deadline.check("work began")
            yield (began - started) * 1e3
        finally:
            self._held_s += _WEIGHT * (time.monotonic() - began - self._held_s)
            self._in_flight.dec()
            self._hand_on()

    async def _turn(self, started: float, deadline: Deadline, gone: Callable[[], Awaitable[None]] | None) -> None:
        if (refusal := self.refusal()) is not None:
            raise refusal
        left_s = deadline.left_s()
        wait_s = min(self._queue_wait_s, left_s)
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[str] = loop.create_future()
        place = (started + wait_s, turn)
        self._waiting.append(place)
        self._waits.inc()
        timer = loop.call_later(wait_s, _end, turn, "queue_wait")
        leaving = None if gone is None else asyncio.ensure_future(gone())
        if leaving is not None:
            leaving.add_done_callback(lambda _: _end(turn, "client_gone"))
        ended = None
        try:
            ended = await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result() == _PERMIT:
                self._hand_on()
            raise
        finally:
            self._waits.dec()
            timer.cancel()
            if leaving is not None:
                leaving.cancel()
            if ended != _PERMIT and place in self._waiting:
                self._waiting.remove(place)
        if ended == _PERMIT:
            return
        if ended == "client_gone":
            self._refused["client_gone"].inc()
            raise Problem(400, "the client went away while waiting", kind="client-gone")
        # What bounded the wait decides, not the clock: the timer may end a wait a little early.
        if left_s <= self._queue_wait_s:
            raise deadline.missed("a thread was free")
        raise self._overloaded("queue_wait", f"no thread was free within {wait_s * 1e3:.0f} ms")

    def _hand_on(self) -> None:
        self._drop_expired(time.monotonic())
        if self._waiting:
            self._waiting.popleft()[1].set_result(_PERMIT)
        else:
            self._free += 1

    def _drop_expired(self, now: float) -> None:
        """Let go of those whose wait is over but who have not run yet: a busy loop must not give them the permit."""
        if any(until <= now or turn.done() for until, turn in self._waiting):
            for until, turn in self._waiting:
                if until <= now:
                    _end(turn, "queue_wait")
            self._waiting = deque(place for place in self._waiting if not place[1].done())

    def _overloaded(self, reason: str, detail: str) -> Problem:
        self._refused[reason].inc()
        return Problem(503, f"overloaded: {detail}", retry_after_s=self._retry_after_s, kind="overloaded")


def _end(turn: asyncio.Future[str], how: str) -> None:
    if not turn.done():
        turn.set_result(how)
