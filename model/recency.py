"""Recency buckets: exact for the newest behaviors, logarithmic beyond, one definition for training and serving."""

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

NUM_AGES = 64
"""Buckets of a behavior's age: less than an hour, then four per doubling, the last from 6 years on."""


@lru_cache(maxsize=1)
def bucket_of_hours() -> npt.NDArray[np.int32]:
    """Age bucket of every age in whole hours, 0 up to the last bucket's first: int32, non-decreasing from 0."""
    bucket = np.floor(_PER_DOUBLING * np.log2(1 + np.arange(2 ** (NUM_AGES // _PER_DOUBLING)))).astype(np.int32)
    found: npt.NDArray[np.int32] = bucket[: int(np.searchsorted(bucket, NUM_AGES - 1)) + 1].copy()
    found.setflags(write=False)
    return found
