"""What is computed once per user and kept between requests: keys for search, rows for ranking, and records for the candidate features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import HashIndex, HistoryFacts, ItemBonus, KeyRecords, SearchKeys, lookup_rows
from model.features import DAY_S, DECAY_DAYS, F64, KeyRecord
from model.taste import TasteTable

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]


def _decayed_sum(time_s: F64, at_s: F64) -> F64:
    weight: F64 = np.exp((time_s - at_s)[:, None] / DAY_S / DECAY_DAYS)
    return weight


@dataclass(frozen=True, slots=True)
class RecordTable:
    """The newest record of every key in one history: `key` [D] ascending and the `KeyRecord` of each; keys that are hashes are indexed."""

    key: npt.NDArray[Any]
    record: KeyRecord
    _index: HashIndex | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.key.dtype == np.uint64:
            object.__setattr__(self, "_index", HashIndex(self.key))

    @classmethod
    def build(cls, key_L: npt.NDArray[Any], time_L: I64) -> RecordTable:
        """Records of a whole history, oldest first."""
        key, first, inverse, count = np.unique(key_L, return_index=True, return_inverse=True, return_counts=True)
        newest = np.zeros(len(key), dtype=np.int64)
        np.maximum.at(newest, inverse, np.arange(len(key_L)))
        time = time_L.astype(np.float64)
        decayed = np.zeros((len(key), len(DECAY_DAYS)))
        if len(key):
            order = np.argsort(inverse, kind="stable")
            decayed = np.add.reduceat(_decayed_sum(time, time[newest][inverse])[order], np.cumsum(count) - count, axis=0)
        return cls(key, KeyRecord(count.astype(np.float64), time[first], time[newest], newest.astype(np.float64), decayed))

    def places(self, key_N: npt.NDArray[Any]) -> I32:
        """Place of each key [N] in `key`, int32; -1 where it is absent."""
        if self._index is not None:
            return lookup_rows(key_N, self._index)
        if len(self.key) == 0:
            return np.full(len(key_N), -1, dtype=np.int32)
        place = np.minimum(np.searchsorted(self.key, key_N), len(self.key) - 1)
        return np.where(self.key[place] == key_N, place, -1).astype(np.int32)

    def lookup(self, key_N: npt.NDArray[Any]) -> KeyRecord:
        """Records of the given keys [N]; never-seen records where a key is absent."""
        return self.record.at(self.places(key_N).astype(np.intp))

    def facts(self) -> KeyRecords:
        """The records as the compiled features read them."""
        r = self.record
        return KeyRecords(r.count, r.first_s, r.newest_s, r.position, r.decayed)

    def extended(self, key_M: npt.NDArray[Any], time_M: I64, length: int) -> RecordTable:
        """Records after M newer behaviors; `length` behaviors came before them. This table stays unchanged."""
        fresh = np.unique(key_M[self.places(key_M) < 0])
        at = np.searchsorted(self.key, fresh)
        key = np.insert(self.key, at, fresh)
        old = self.record
        count, first_s, newest_s, position = (np.insert(v, at, 0.0) for v in (old.count, old.first_s, old.newest_s, old.position))
        decayed = np.insert(old.decayed, at, 0.0, axis=0)
        for i, (place, now) in enumerate(zip(np.searchsorted(key, key_M), time_M.astype(np.float64), strict=True)):
            if count[place] == 0:
                first_s[place] = now
            decayed[place] = 1.0 + decayed[place] * np.exp(-(now - newest_s[place]) / DAY_S / DECAY_DAYS)
            count[place] += 1
            newest_s[place], position[place] = now, length + i
        return RecordTable(key, KeyRecord(count, first_s, newest_s, position, decayed))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        r = self.record
        held = sum(a.nbytes for a in (self.key, r.count, r.first_s, r.newest_s, r.position, r.decayed))
        return int(held) + (0 if self._index is None else self._index.nbytes)


@dataclass(frozen=True, slots=True)
class Occurrences:
    """Where each item occurs: `index` of the D distinct item hashes; those of the d-th are at `position[start[d]:start[d + 1]]`, ascending
    (`start` i64 [D + 1], `position` i32 [L])."""

    index: HashIndex
    start: I64
    position: I32

    @classmethod
    def build(cls, item_hash_L: U64) -> Occurrences:
        """Occurrences of a whole history."""
        order = np.argsort(item_hash_L, kind="stable")
        return cls._of(item_hash_L[order], order.astype(np.int32))

    @classmethod
    def _of(cls, sorted_hash_L: U64, position_L: I32) -> Occurrences:
        first = np.ones(len(sorted_hash_L), dtype=bool)
        first[1:] = sorted_hash_L[1:] != sorted_hash_L[:-1]
        start = np.flatnonzero(first)
        return cls(HashIndex(sorted_hash_L[start]), np.append(start, len(sorted_hash_L)), position_L)

    def extended(self, item_hash_M: U64, length: int) -> Occurrences:
        """Occurrences after M newer behaviors."""
        order = np.argsort(item_hash_M, kind="stable")
        sorted_hash = np.repeat(self.index.sorted_hash_V, np.diff(self.start))
        at = np.searchsorted(sorted_hash, item_hash_M[order], side="right")
        position = np.insert(self.position, at, (order + length).astype(np.int32))
        return self._of(np.insert(sorted_hash, at, item_hash_M[order]), position)

    def bonus(self, candidate_hash_N: U64, value: float) -> ItemBonus:
        """The score bonus of the behaviors of each candidate's own item."""
        place = lookup_rows(candidate_hash_N, self.index)
        # -1 reaches the end of the last item: from there to there is nothing.
        left = self.start[place]
        size = np.where(place < 0, 0, self.start[place + 1] - left)
        start = np.zeros(len(candidate_hash_N) + 1, dtype=np.int64)
        np.cumsum(size, out=start[1:])
        within = np.arange(start[-1]) + np.repeat(left - start[:-1], size)
        return ItemBonus(start, self.position[within], value)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.index.sorted_hash_V.nbytes + self.index.nbytes + self.start.nbytes + self.position.nbytes


@dataclass(frozen=True, slots=True)
class UserState:
    """One user's history, prepared for scoring; immutable, so that requests share it.

    `item_hash_L` u64, `timestamp_L` i64 [L] oldest first; `catalogue_L` i32 place in the catalogue (-1 unknown); `item_row_L`,
    `category_row_L` i32 table rows; `keys` attention keys; `activity` f64 [decays] and `profile` f64 [T] sums over the history.
    """

    item_hash_L: U64
    timestamp_L: I64
    catalogue_L: I32
    item_row_L: I32
    category_row_L: I32
    keys: SearchKeys
    items: RecordTable
    categories: RecordTable
    occurrences: Occurrences
    activity: F64
    profile: F64
    _facts: HistoryFacts | None = field(default=None, init=False, repr=False, compare=False)

    def facts(self, taste: TasteTable) -> HistoryFacts:
        """What the candidate features need of this history; computed when first asked for."""
        if self._facts is None:
            newest_s = float(self.timestamp_L[-1]) if self.length else 0.0
            profile_ST = taste.profiles(self.catalogue_L, self.profile)
            facts = HistoryFacts(self.items.facts(), self.categories.facts(), self.length, newest_s, self.activity, profile_ST)
            object.__setattr__(self, "_facts", facts)  # another thread may do the same: the facts are equal
            return facts
        return self._facts

    @property
    def length(self) -> int:
        """L, the behaviors used."""
        return len(self.item_hash_L)

    @property
    def nbytes(self) -> int:
        """Bytes held: what a cache counts."""
        arrays = (self.item_hash_L, self.timestamp_L, self.catalogue_L, self.item_row_L, self.category_row_L, self.profile)
        parts = (self.keys, self.items, self.categories, self.occurrences)
        return int(sum(a.nbytes for a in arrays)) + sum(part.nbytes for part in parts)


def activity_of(timestamp_L: I64) -> F64:
    """Decayed number of behaviors as of the newest: f64 [decays], zeros for an empty history."""
    if len(timestamp_L) == 0:
        return np.zeros(len(DECAY_DAYS))
    time = timestamp_L.astype(np.float64)
    total: F64 = _decayed_sum(time, np.full(len(time), time[-1])).sum(axis=0)
    return total


def activity_extended(activity: F64, newest: int, timestamp_M: I64) -> F64:
    """`activity_of` a history after M newer behaviors. Args: `activity` as of the time `newest`, before them."""
    fresh = activity_of(timestamp_M)
    return activity if len(timestamp_M) == 0 else fresh + activity * np.exp((newest - float(timestamp_M[-1])) / DAY_S / DECAY_DAYS)
