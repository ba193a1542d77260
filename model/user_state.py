"""What is computed once per user and kept between requests: keys for search, rows for ranking, and records for the candidate features."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kernels import HistoryFacts, HistoryRows, SearchKeys
from model.features import DAY_S, DECAY_DAYS, F64
from model.growing_rows import GrowingRows
from model.occurrences import Occurrences
from model.record_table import RecordTable, decay
from model.taste import TasteTable

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class UserState:
    """One user's history, prepared for scoring; immutable, so that requests share it, though an older and a newer state share memory.

    `rows` oldest first: item hash u64, timestamp i64, place in the catalogue i32 (-1 unknown), table rows of item and category i32; `keys`
    attention keys; `record_rows` where candidates' records are; `activity` f64 [decays] and `profile` f64 [T] sums over the history.
    """

    rows: GrowingRows
    keys: SearchKeys
    items: RecordTable
    categories: RecordTable
    occurrences: Occurrences
    record_rows: HistoryRows
    activity: F64
    profile: F64
    _facts: HistoryFacts | None = field(default=None, init=False, repr=False, compare=False)

    def facts(self, taste: TasteTable) -> HistoryFacts:
        """What the candidate features need of this history; computed when first asked for."""
        if self._facts is None:
            newest_s = float(self.timestamp_L[-1]) if self.length else 0.0
            profile_ST = taste.profiles(self.catalogue_L, self.profile)
            facts = HistoryFacts(
                self.items.facts(),
                self.categories.facts(),
                self.length,
                newest_s,
                self.activity,
                profile_ST,
                distinct=self.items.distinct,
                first=self.items.first,
            )
            object.__setattr__(self, "_facts", facts)  # another thread may do the same: the facts are equal
            return facts
        return self._facts

    @property
    def length(self) -> int:
        """L, the behaviors used."""
        return len(self.rows)

    @property
    def item_hash_L(self) -> U64:
        """u64 [L]."""
        return self.rows.column(0)

    @property
    def timestamp_L(self) -> I64:
        """i64 [L], unix seconds."""
        return self.rows.column(1)

    @property
    def catalogue_L(self) -> I32:
        """i32 [L], -1 for an item that the catalogue does not have."""
        return self.rows.column(2)

    @property
    def item_row_L(self) -> I32:
        """i32 [L]."""
        return self.rows.column(3)

    @property
    def category_row_L(self) -> I32:
        """i32 [L]."""
        return self.rows.column(4)

    @property
    def nbytes(self) -> int:
        """Bytes held: what a cache counts."""
        records = self.record_rows.category_record_C
        parts = (self.rows, self.profile, self.keys, self.items, self.categories, self.occurrences, records)
        return int(sum(part.nbytes for part in parts))


def activity_of(timestamp_L: I64) -> F64:
    """Decayed number of behaviors as of the newest: f64 [decays], zeros for an empty history."""
    if len(timestamp_L) == 0:
        return np.zeros(len(DECAY_DAYS))
    time = timestamp_L.astype(np.float64)
    total: F64 = decay(time[-1] - time).sum(axis=0)
    return total


def activity_extended(activity: F64, timestamp_L: I64, timestamp_M: I64, drop: int) -> F64:
    """`activity_of` a history of L behaviors after M newer ones came and the `drop` oldest left. Args: `activity` before that."""
    newest = float(timestamp_L[-1])
    if len(timestamp_M):
        now = float(timestamp_M[-1])
        activity, newest = activity_of(timestamp_M) + activity * np.exp((newest - now) / DAY_S / DECAY_DAYS), now
    gone: F64 = decay(newest - timestamp_L[:drop].astype(np.float64)).sum(axis=0)
    return activity - gone
