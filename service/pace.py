"""What scoring costs on this machine, learnt from each answer, and how much history fits into the time left."""

from __future__ import annotations

import threading

_WEIGHT = 0.1
"""Of the newest observation in the moving averages."""
_SAFETY = 0.8
"""Share of the time left that is planned with: the rest is for encoding, and for being wrong."""
_ENOUGH = 100_000
"""Behaviors times candidates from which a search tells what a pair costs; below, fixed costs dominate."""


class Pace:
    """Moving averages of one model version's costs, in ms; thread safe.

    Until the first observation everything is taken to fit: a new version is observed while it warms up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prepare_ms = 0.0
        self._search_ms = 0.0
        self._rank_ms = 0.0

    def prepared(self, length: int, spent_ms: float) -> None:
        """A user of `length` behaviors was prepared."""
        if length >= 1000:
            with self._lock:
                self._prepare_ms = _averaged(self._prepare_ms, spent_ms / length)

    def scored(self, length: int, candidates: int, search_ms: float, rank_ms: float) -> None:
        """`candidates` were scored against `length` behaviors."""
        if length * candidates >= _ENOUGH:
            with self._lock:
                self._search_ms = _averaged(self._search_ms, search_ms / (length * candidates))
                self._rank_ms = _averaged(self._rank_ms, rank_ms / candidates)

    def longest(self, left_s: float, length: int, candidates: int, ready: bool, least: int) -> int:
        """How many of the newest behaviors can be used in the time left.

        Args: `ready` the whole history is prepared already; `least` what is used however little time is left.
        Returns: `length` when all fit, never under min(least, length).
        """
        planned_ms = left_s * 1e3 * _SAFETY - self._rank_ms * candidates
        search_ms = self._search_ms * candidates
        if (search_ms + (0.0 if ready else self._prepare_ms)) * length <= planned_ms:
            return length
        # A part of a history has to be prepared anew.
        fits = int(max(0.0, planned_ms) / max(search_ms + self._prepare_ms, 1e-9))
        return min(length, max(least, fits))


def _averaged(before: float, now: float) -> float:
    return now if before == 0.0 else before + _WEIGHT * (now - before)
