"""Time that passes only when everybody waits: tasks, in an order that their waits alone decide, thousands of seconds in a moment."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class VirtualTime:
    """A clock (s) and the tasks that wait for it. Everything runs in one thread; a task runs until it waits.

    `run` is called where the clock was made, in `hub`. What a task raises, `run` raises.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._due: list[tuple[float, int, Callable[[], Any]]] = []
        self._number = itertools.count()
        self.hub = getcurrent()

    def clock(self) -> float:
        """Now."""
        return self.now

    def after(self, delay_s: float, do: Callable[[], Any]) -> None:
        """Call `do` when so much time has passed."""
        heapq.heappush(self._due, (self.now + delay_s, next(self._number), do))

    def start(self, work: Callable[[], None]) -> None:
        """A new task."""
        self.after(0.0, greenlet(work, self.hub).switch)

    def sleep(self, seconds: float) -> None:
        """Let the calling task wait."""
        self.after(seconds, getcurrent().switch)
        self.hub.switch()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass: so many seconds, or until `until` holds."""
        end = self.now + seconds
        while self._due and self._due[0][0] <= end and not until():
            self.now, _, do = heapq.heappop(self._due)
            do()
        if not until():
            self.now = end


class Expected:
    """Something that comes, or does not: what one task waits for and another, or the clock, delivers."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self._waiting: greenlet | None = None
        self._come: list[Any] = []

    def deliver(self, what: Any) -> None:
        """The first thing delivered is what comes."""
        if not self._come:
            self._come.append(what)
            self._time.after(0.0, lambda: self._wake(self._waiting))

    def wait(self, seconds: float) -> list[Any]:
        """What comes within so many seconds, as a list of one, else an empty list. To be called once."""
        if not self._come:
            self._waiting = task = getcurrent()
            self._time.after(seconds, lambda: self._wake(task))
            self._time.hub.switch()
        return self._come[:]

    def _wake(self, task: greenlet | None) -> None:
        if task is not None and self._waiting is task:
            self._waiting = None
            task.switch()


class TaskLocal:
    """Attributes of the running task, as `threading.local` has those of the running thread."""

    def __getattr__(self, name: str) -> Any:
        return getattr(getcurrent(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(getcurrent(), name, value)
