"""Waiting in tests: as long as a slow or busy machine takes, and never for ever."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

PATIENCE_S = 60.0
"""For what takes a fraction of a second: what a busy machine needs, and more. Nothing is measured with it."""
LONGEST_S = 300.0
"""One test outside the long forms of the faults; the slowest takes a tenth of it."""


def until(true: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return once it holds. Raises: AssertionError where it does not within `patience_s`."""
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s"
        time.sleep(0.001)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Fail the test, at the line where it is, once so much time has passed: a test that waits in vain ends and says for what.

    In the main thread alone, which is where tests run; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"not finished after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
