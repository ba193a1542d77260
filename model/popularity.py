"""How popular every item is at any moment, from a fixed set of behaviors: its share of what was taken lately, and when it was last taken.

Statistics of a whole period cannot say that an item has gone out of season or out of the shop. Only days before the moment's own day
count, so no behavior is inside its own popularity. From the day after the newest behavior of the set on, the figures stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.features import DAY_S, POPULARITY_DAYS, decayed_counts

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
DAYS = 1 << 16
"""More days than 32-bit unix seconds have."""
PRIOR = 0.2
"""Decayed behaviors that every item is given before shares are taken."""


@dataclass(frozen=True, slots=True)
class PopularityClock:
    """Decayed counts of I items after each day on which they were taken.

    `key` i64 [D] ascending, item * 65,536 + day since 1970; `count` f32 [D] behaviors of the item so far; `decayed` f32 [D, P] as of that
    day, P = len(POPULARITY_DAYS); `first_day` i64 [1] of the whole set; `total` f32 [days, P] over all items, as of each day from
    the first.
    """

    num_items: int
    key: I64
    count: F32
    decayed: F32
    first_day: I64
    total: F32

    @classmethod
    def build(cls, item: I64, time_s: I64, num_items: int) -> PopularityClock:
        """The clock of the behaviors `item`, `time_s` int64 [E], in any order."""
        key, amount = np.unique(item * DAYS + (time_s // int(DAY_S)), return_counts=True)
        first = np.ones(len(key), dtype=bool)
        first[1:] = key[1:] // DAYS != key[:-1] // DAYS
        decay = np.array(POPULARITY_DAYS, dtype=np.float64)
        decayed = decayed_counts(first, (key % DAYS) * DAY_S, decay, amount.astype(np.float64))
        cumulative = np.cumsum(amount)
        before = np.maximum.accumulate(np.where(first, cumulative - amount, 0))
        day = key % DAYS
        first_day = int(day.min()) if len(day) else 0
        per_day = np.bincount(day - first_day, amount).astype(np.float64)
        since = np.arange(len(per_day), dtype=np.float64)
        total = decayed_counts(since == 0, since * DAY_S, decay, per_day)
        return cls(
            num_items,
            key.astype(np.int64),
            (cumulative - before).astype(np.float32),
            decayed.astype(np.float32),
            np.array([first_day], dtype=np.int64),
            total.astype(np.float32),
        )

    def reordered(self, order: npt.NDArray[np.integer]) -> PopularityClock:
        """The clock of the same items with item `order[i]` at place i: int64 [I]."""
        place = np.empty(self.num_items, dtype=np.int64)
        place[order] = np.arange(self.num_items)
        key = place[self.key // DAYS] * DAYS + self.key % DAYS
        by_key = np.argsort(key)
        return PopularityClock(self.num_items, key[by_key], self.count[by_key], self.decayed[by_key], self.first_day, self.total)

    def at(self, item_M: npt.NDArray[np.integer], time_s: npt.NDArray[np.integer]) -> F64:
        """Popularity of items (anything outside 0..I-1: an item never taken) at times in unix seconds, int64 [M] or one for all.

        Returns: f64 [M, len(POPULARITY_FEATURES)].
        """
        first, decay_days = int(self.first_day[0]), np.array(POPULARITY_DAYS)
        item = np.where((item_M >= 0) & (item_M < self.num_items), item_M, self.num_items).astype(np.int64)
        today = np.broadcast_to(np.clip(np.asarray(time_s, dtype=np.int64) // int(DAY_S), first, first + len(self.total)), item.shape)
        place = np.searchsorted(self.key, item * DAYS + today) - 1
        taken = np.zeros(len(item), dtype=bool)
        if len(self.key):
            taken = (place >= 0) & (self.key[place] // DAYS == item)
        day, count = np.full(len(item), first - 1), np.zeros(len(item))
        decayed = np.zeros((len(item), len(decay_days)))
        day[taken], count[taken], decayed[taken] = self.key[place[taken]] % DAYS, self.count[place[taken]], self.decayed[place[taken]]
        gap_days = (today - day).astype(np.float64)
        yesterday = np.concatenate([np.zeros((1, len(decay_days))), self.total])[today - first]
        total = yesterday * np.exp(-1.0 / decay_days) + PRIOR * self.num_items
        share = (decayed * np.exp(-gap_days[:, None] / decay_days) + PRIOR) / total * self.num_items
        return np.column_stack([np.log(share), np.log1p(gap_days), np.log1p(count)])
