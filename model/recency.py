"""Recency buckets: exact for the newest places (or sessions), logarithmic beyond, one definition for training and serving."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

MAX_LENGTH = 100_000
"""Longest behavior sequence, in behaviors."""
_EXACT = 32
_PER_DOUBLING = 4


@lru_cache(maxsize=1)
def bucket_of_recency() -> npt.NDArray[np.int32]:
    """Bucket of every recency 0..MAX_LENGTH: int32 [MAX_LENGTH + 1], non-decreasing from 0.

    Recency 0 is the target itself, 1 the newest behavior; up to 32 each has its own bucket, beyond that four buckets per doubling.
    """
    recency = np.arange(MAX_LENGTH + 1)
    octave = np.log2(np.maximum(recency, _EXACT) / _EXACT)
    bucket = np.where(recency <= _EXACT, recency, _EXACT + 1 + np.floor(octave * _PER_DOUBLING)).astype(np.int32)
    bucket.setflags(write=False)
    return bucket


NUM_BUCKETS = int(bucket_of_recency()[-1]) + 1

SESSION_GAP_S = 1800
"""Seconds without a behavior after which the next one begins a session. Where times are whole days, a session is a day."""


def sessions_back(timestamp_L: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """How many sessions back each behavior is, 1 in the newest: int32 [L] of unix seconds, oldest first."""
    back = np.ones(len(timestamp_L), dtype=np.int32)
    back[:-1] += (np.diff(timestamp_L)[::-1] > SESSION_GAP_S).cumsum(dtype=np.int32)[::-1]
    return back


NUM_AGES = 64
"""Buckets of a behavior's age: less than an hour, then four per doubling, the last from 6 years on."""


@lru_cache(maxsize=1)
def bucket_of_hours() -> npt.NDArray[np.int32]:
    """Age bucket of every age in whole hours, 0 up to the last bucket's first: int32, non-decreasing from 0."""
    bucket = np.floor(_PER_DOUBLING * np.log2(1 + np.arange(2 ** (NUM_AGES // _PER_DOUBLING)))).astype(np.int32)
    found: npt.NDArray[np.int32] = bucket[: int(np.searchsorted(bucket, NUM_AGES - 1)) + 1].copy()
    found.setflags(write=False)
    return found


class PairRuns:
    """Buckets of place and age together, place * NUM_AGES + age: some 160 runs in a history in time order, however long it is."""

    def __init__(self) -> None:
        by_place, by_age = bucket_of_recency()[:0:-1], bucket_of_hours()
        self._place_start_P = np.flatnonzero(np.diff(by_place, prepend=-1))
        self._place_P = by_place[self._place_start_P]
        first_hour_A = (np.flatnonzero(np.diff(by_age)) + 1)[::-1]
        self._least_age_A = first_hour_A * 3600
        self._age = np.append(by_age[first_hour_A], np.int32(0))

    def of(self, timestamp_L: npt.NDArray[np.int64], now: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Pair of each run, oldest first, int32 [R], and how many behaviors are in it, 0 too: int64 [R].

        Args: `timestamp_L` unix seconds, oldest first; later than `now` is of no age.
        """
        length = len(timestamp_L)
        place_start_P = np.maximum(self._place_start_P - (MAX_LENGTH - length), 0)
        age_end_A = timestamp_L.searchsorted(now - self._least_age_A, side="right")
        start_R = np.concatenate((place_start_P, age_end_A))
        start_R.sort()
        place_R = self._place_P[place_start_P.searchsorted(start_R, side="right") - 1]
        age_R = self._age[age_end_A.searchsorted(start_R, side="right")]
        return place_R * np.int32(NUM_AGES) + age_R, np.diff(start_R, append=length)
