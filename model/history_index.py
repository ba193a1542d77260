"""What every user's history said about a key at any moment, for all users at once: what training and studies read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.features import DAY_S, DECAY_DAYS, F64, I64, KeyRecord, decayed_counts, empty_record

_CELLS = 20_000_000


class HistoryIndex:
    """Records of every (user, key) pair at every moment of every user's history.

    Args:
        user: int64 [E], user of each behavior; behaviors of a user consecutive, oldest first.
        key: int64 [E], item or category code >= 0.
        time_s: int64 [E] unix seconds.
        user_start: int64 [users + 1].
    """

    def __init__(self, user: I64, key: I64, time_s: I64, user_start: I64) -> None:
        self._behaviors = len(key)
        self._keys = int(key.max(initial=-1)) + 1
        pair = user.astype(np.int64) * self._keys + key
        order = np.argsort(pair, kind="stable")
        sorted_pair = pair[order]
        run_start = np.ones(len(order), dtype=bool)
        run_start[1:] = sorted_pair[1:] != sorted_pair[:-1]
        self._pair = sorted_pair[run_start]
        self._run = np.cumsum(run_start) - 1
        self._time = time_s[order].astype(np.float64)
        self._place = self._run * self._behaviors + order
        self._decayed = decayed_counts(run_start, self._time)
        # The behavior of the same pair just before each behavior, -1 for the first.
        self._previous = np.full(self._behaviors, -1, dtype=np.int64)
        self._previous[order[1:]] = np.where(run_start[1:], -1, order[:-1])

    def records(self, user: I64, key: I64, start: I64, end: I64) -> KeyRecord:
        """Records of `key` [M] among the behaviors `start:end` [M] (absolute indices) of `user` [M]; positions count from `start`."""
        if self._behaviors == 0 or len(key) == 0:
            return empty_record(len(key))
        pair = user.astype(np.int64) * self._keys + key
        run = np.minimum(np.searchsorted(self._pair, pair), len(self._pair) - 1)
        newest = np.searchsorted(self._place, run * self._behaviors + end) - 1
        oldest = np.searchsorted(self._place, run * self._behaviors + start)
        known = (key >= 0) & (key < self._keys) & (self._pair[run] == pair) & (newest >= oldest)
        newest, oldest = np.where(known, newest, 0), np.where(known, oldest, 0)
        before = np.maximum(oldest - 1, 0)
        cut = known & (oldest > 0) & (self._run[before] == self._run[oldest])
        gap_days = (self._time[newest] - self._time[before]) / DAY_S
        hidden = self._decayed[before] * np.exp(-gap_days[:, None] / DECAY_DAYS) * cut[:, None]
        return KeyRecord(
            count=(newest - oldest + 1.0) * known,
            first_s=self._time[oldest] * known,
            newest_s=self._time[newest] * known,
            position=(self._place[newest] - self._run[newest] * self._behaviors - start) * known.astype(np.float64),
            decayed=np.maximum(self._decayed[newest] - hidden, 0.0) * known[:, None],
        )

    def distinct(self, start: I64, end: I64) -> F64:
        """Number of distinct keys among the behaviors `start:end` [M], each range within one user: f64 [M]."""
        if self._behaviors == 0:
            return np.zeros(len(start))
        ranges, inverse = np.unique(np.stack([start, end], axis=1), axis=0, return_inverse=True)
        counted = np.zeros(len(ranges))
        length = ranges[:, 1] - ranges[:, 0]
        order = np.argsort(length, kind="stable")
        first = 0
        while first < len(order):
            # Ranges of similar length side by side: a block of rows x longest, never more than _CELLS cells.
            last = min(len(order), first + max(1, _CELLS // max(1, int(length[order[min(len(order) - 1, first + 4096)]]))), first + 4096)
            rows = order[first:last]
            column = np.arange(max(1, int(length[rows].max())))
            behavior = np.minimum(ranges[rows, :1] + column, self._behaviors - 1)
            is_first = (column < length[rows, None]) & (self._previous[behavior] < ranges[rows, :1])
            counted[rows] = is_first.sum(axis=1)
            first = last
        result: npt.NDArray[np.float64] = counted[inverse.reshape(-1)]
        return result
