"""Memory with room at its end, shared between an older holder and a newer one."""

from __future__ import annotations

import threading


class Room:
    """`capacity` rows, of which `used` are written and never change; whoever holds the newest of them may write behind them."""

    def __init__(self, capacity: int, used: int) -> None:
        self.capacity, self.used = capacity, used
        self._lock = threading.Lock()

    def take(self, end: int, rows: int) -> bool:
        """Whether `rows` rows after the first `end` are now the caller's to write."""
        with self._lock:
            if self.used != end or end + rows > self.capacity:
                return False
            self.used = end + rows
            return True
