"""What a shared store runs in: a clock, a connection, a thread. A simulation brings its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.redis_connection import Client, Deadlines, RedisAddress, Resolved, client_of


def in_a_thread(step: Callable[[], float]) -> Callable[[], None]:
    """Run `step` again and again in a thread, each time after the pause in s that it returned; returns what ends that."""
    stop = threading.Event()

    def run() -> None:
        pause_s = 0.0
        while not stop.wait(pause_s):
            pause_s = step()

    thread = threading.Thread(target=run, name="store-feed", daemon=True)
    thread.start()

    def end() -> None:
        stop.set()
        thread.join()

    return end


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`clock` monotonic s; `connect` as `client_of`; `repeat` as `in_a_thread`."""

    clock: Callable[[], float] = time.monotonic
    connect: Callable[[RedisAddress, Resolved, Deadlines, int, float], Client] = client_of
    repeat: Callable[[Callable[[], float]], Callable[[], None]] = in_a_thread
