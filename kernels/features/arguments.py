"""What the candidate features are computed from, checked once: a history's records, and the facts about the items."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.checks import array, hold

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]

DECAYS, PROFILES, STATISTICS = 3, 3, 9
"""Time constants of decayed counts and of popularities, taste profiles of a user, frozen statistics of an item."""
NUM_FEATURES = 46
DAY_BITS = 16
"""Days since 1970 in the low bits of a popularity key."""


@dataclass(frozen=True, slots=True)
class KeyRecords:
    """What a history says about each of its D distinct keys.

    `count` f64 [D] behaviors; `first_s`, `newest_s` f64 [D] unix seconds; `position` f64 [D], place of the newest in the history;
    `decayed` f64 [D, DECAYS], decayed count as of `newest_s`.
    Raises: ValueError for another dtype or shape.
    """

    count: F64
    first_s: F64
    newest_s: F64
    position: F64
    decayed: F64

    def __post_init__(self) -> None:
        size = len(self.count)
        for name in ("count", "first_s", "newest_s", "position"):
            hold(self, name, array(name, getattr(self, name), np.float64, (size,)))
        hold(self, "decayed", array("decayed", self.decayed, np.float64, (size, DECAYS)))

    def __len__(self) -> int:
        return len(self.count)


@dataclass(frozen=True, slots=True)
class HistoryFacts:
    """One user's history of L behaviors, `distinct` of different items, the oldest of which has position `first`.

    `items`, `categories` the records of its keys, and maybe others; `newest_s` time of the newest behavior, unix seconds; `activity` f64
    [DECAYS], decayed number of behaviors as of `newest_s`; `profile_ST` f64 [PROFILES, T], taste profiles.
    Raises: ValueError for another dtype or shape.
    """

    items: KeyRecords
    categories: KeyRecords
    length: int
    newest_s: float
    activity: F64
    profile_ST: F64
    distinct: int
    first: int = 0
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a backend keeps of it, by the backend's name."""

    def __post_init__(self) -> None:
        hold(self, "activity", array("activity", self.activity, np.float64, (DECAYS,)))
        hold(self, "profile_ST", array("profile_ST", self.profile_ST, np.float64, (PROFILES, None)))


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What a model knows of I items; row I is the item nobody knows.

    `statistic` f32 [I + 1, STATISTICS], of which columns `interval_columns` are log1p of the typical days between behaviors of the item and
    of its category; `taste` f32 [I + 1, T]; `popularity_key` i64 [P] ascending, item << 16 | day; `popularity_count` f32 [P] and
    `popularity_decayed` f32 [P, DECAYS] as of that day; `popularity_total` f32 [days, DECAYS] over all items, from `first_day` on;
    `popularity_days`, `decay_days` f64 [DECAYS] time constants; `prior` decayed behaviors that every item is given.
    Raises: ValueError for another dtype or shape, and for keys outside the items.
    """

    statistic: F32
    interval_columns: tuple[int, int]
    taste: F32
    popularity_key: I64
    popularity_count: F32
    popularity_decayed: F32
    popularity_total: F32
    first_day: int
    popularity_days: F64
    decay_days: F64
    prior: float
    popularity_start: I32 = field(init=False, repr=False, compare=False)
    """First key of each item, then P."""
    prepared: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What a backend keeps of it, by the backend's name."""

    def __post_init__(self) -> None:
        rows, days = len(self.statistic), len(self.popularity_key)
        if days >= 2**31:
            raise ValueError(f"popularity_key must have fewer than 2^31 keys, got {days}")
        shapes: dict[str, tuple[type[np.generic], tuple[int | None, ...]]] = {
            "statistic": (np.float32, (rows, STATISTICS)),
            "taste": (np.float32, (rows, None)),
            "popularity_key": (np.int64, (days,)),
            "popularity_count": (np.float32, (days,)),
            "popularity_decayed": (np.float32, (days, DECAYS)),
            "popularity_total": (np.float32, (None, DECAYS)),
            "popularity_days": (np.float64, (DECAYS,)),
            "decay_days": (np.float64, (DECAYS,)),
        }
        for name, (kind, shape) in shapes.items():
            hold(self, name, array(name, getattr(self, name), kind, shape))
        if rows < 1:
            raise ValueError("statistic must have the row of the item nobody knows, got no row")
        if not all(0 <= column < STATISTICS for column in self.interval_columns):
            raise ValueError(f"interval_columns must be in 0..{STATISTICS - 1}, got {self.interval_columns}")
        key = self.popularity_key
        if days and not 0 <= int(key[0]) <= int(key[-1]) < (rows - 1) << DAY_BITS:
            raise ValueError(f"popularity_key must name items in 0..{rows - 2}, got {int(key[0])}..{int(key[-1])}")
        first = np.arange(rows, dtype=np.int64) << DAY_BITS
        hold(self, "popularity_start", np.searchsorted(key, first).astype(np.int32))

    def __len__(self) -> int:
        return len(self.statistic) - 1
