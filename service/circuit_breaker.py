"""A circuit breaker: after a short run of failures nobody waits for the store any more."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class CircuitBreaker:
    """Open once every call has failed for `open_after_s`; closed again by the first success. Thread safe.

    Whoever finds it open fails at once; finding out whether the store is back is the work of one background thread, so that no request
    pays for it.

    Args: `open_after_s` from the beginning of the first failed call in a row, or from the last answer where that is later; `clock`
    monotonic seconds.
    """

    def __init__(self, open_after_s: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._open_after_s = open_after_s
        self._clock = clock
        self._failing_since: float | None = None
        self._succeeded_at = -math.inf
        self._lock = threading.Lock()
        self.is_open = False

    def failed(self, began: float) -> None:
        """A call that began then has failed. What others were answered meanwhile counts: one slow call opens nothing."""
        with self._lock:
            if self._failing_since is None:
                self._failing_since = max(began, self._succeeded_at)
            self.is_open = self.is_open or self._clock() - self._failing_since >= self._open_after_s

    def succeeded(self) -> None:
        """A call was answered."""
        self._succeeded_at = self._clock()
        if self._failing_since is not None:
            with self._lock:
                self._failing_since, self.is_open = None, False
