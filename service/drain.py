"""Leaving without anybody noticing: not ready first, so that load balancers turn away, and only then no longer listening."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Drain:
    """Whether the process is about to stop.

    Args: `drain_s` between SIGTERM and the moment the server stops listening; requests are answered meanwhile.
    """

    def __init__(self, drain_s: float) -> None:
        self._drain_s = drain_s
        self.draining = False

    @contextmanager
    def announced(self) -> Iterator[None]:
        """While this lasts, SIGTERM reaches the server `drain_s` late, a second one at once. Only the main thread gets signals."""
        server = signal.getsignal(signal.SIGTERM)
        if self._drain_s == 0 or threading.current_thread() is not threading.main_thread() or not callable(server):
            yield
            return
        loop, stop = asyncio.get_running_loop(), server

        def on_sigterm(number: int, frame: FrameType | None) -> None:
            if self.draining:
                stop(number, frame)
                return
            self.draining = True
            loop.call_soon_threadsafe(loop.call_later, self._drain_s, stop, number, None)

        signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, server)
