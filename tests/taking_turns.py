"""Tests that measure run alone, though the suite is spread over processes: they hold a lock that every other test shares."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_GATE, _RUN = _HERE, _HERE / "service"
"""Folders to lock, so that nothing is left behind."""


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, how)
        yield
    finally:
        os.close(opened)


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    """While it lasts, either no other process of this run tests anything, or only others that are not `alone` do.

    Whoever waits to be alone holds the gate, so that a stream of other tests cannot keep it waiting.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    with ExitStack() as held:
        with ExitStack() as gate:
            gate.enter_context(_locked(_GATE, fcntl.LOCK_EX))
            held.enter_context(_locked(_RUN, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
            if alone:
                held.push(gate.pop_all())
        yield
