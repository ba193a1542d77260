"""Timing side by side: whoever is measured takes turns with the others, over inputs that rotate."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Input = TypeVar("Input")
_LEAST_ROUNDS = 5
_MOST_ROUNDS = 300
_REST_S, _TURN_S, _CALLS_PER_TURN = 0.01, 0.01, 40


@dataclass(frozen=True, slots=True)
class Entry(Generic[Input]):
    """One that is measured: what it does with an input, and its inputs."""

    run: Callable[[Input], object]
    inputs: Sequence[Input]


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds per call: the median, the fastest and the slowest tenth, and how many calls were timed."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> Spread:
        """Raises: ValueError for no times."""
        if not times_ms:
            raise ValueError("times_ms must hold at least one time, got none")
        low, high = np.percentile(times_ms, [10, 90])
        return cls(statistics.median(times_ms), float(low), float(high), len(times_ms))


def take_turns(entries: Mapping[str, Entry[Input]], budget_s: float) -> dict[str, Spread]:
    """Time every entry, a few calls each round, until about `budget_s` seconds are spent and at least five rounds are made.

    A slow moment of the machine meets all of them. A turn is ten milliseconds of calls, two at least and forty at most, each with the next
    input; the call before them is not timed: it wakes the entry's own threads and brings its code back. Turns are apart by a rest, so that
    the threads of the one before have stopped spinning.
    """
    times: dict[str, list[float]] = {name: [] for name in entries}
    turns = dict.fromkeys(entries, 0)
    until = time.perf_counter() + budget_s
    for round_ in range(_MOST_ROUNDS):
        if round_ >= _LEAST_ROUNDS and time.perf_counter() > until:
            break
        for name, entry in entries.items():
            time.sleep(_REST_S)
            entry.run(entry.inputs[turns[name] % len(entry.inputs)])
            turn_end = time.perf_counter() + _TURN_S
            for call in range(_CALLS_PER_TURN):
                turns[name] += 1
                given = entry.inputs[turns[name] % len(entry.inputs)]
                start = time.perf_counter()
                if call >= 2 and start > turn_end:
                    break
                entry.run(given)
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: Spread.of(values) for name, values in times.items()}
