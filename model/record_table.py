"""The newest record of every key in one history, where a key is an item or a category; what a new behavior changes is written beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels import HashIndex, KeyRecords, lookup_rows
from model.features import DAY_S, DECAY_DAYS, F64, KeyRecord
from model.growing_rows import GrowingRows

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Keys = npt.NDArray[Any]
_SEARCHED = 1024
"""Behaviors looked through at first for the next one of a key, then twice as many, and so on."""


@dataclass(frozen=True, slots=True)
class Occurring:
    """The D distinct keys of a history, ascending; the d-th occurs at `place[start[d]:start[d + 1]]`, ascending; i64 [D + 1], [L]."""

    key: Keys
    start: I64
    place: I64

    @classmethod
    def of(cls, key_L: Keys) -> Occurring:
        """Where each key of a history occurs."""
        place = np.argsort(key_L, kind="stable")
        in_order = key_L[place]
        start = starts(in_order)
        return cls(in_order[start[:-1]], start, place)


def starts(in_order: Keys) -> I64:
    """Where the runs of D equal keys among L sorted ones start, and L: i64 [D + 1]."""
    first = np.ones(len(in_order), dtype=bool)
    first[1:] = in_order[1:] != in_order[:-1]
    return np.append(np.flatnonzero(first), len(in_order))


@dataclass(frozen=True, slots=True)
class RecordTable:
    """The newest record of every key in one history; immutable, though an older and a newer table share memory.

    `key` [D] ascending: those known when the table was made, whose records are the first D `rows` (count, first_s, newest_s, position,
    decayed); `changed` [V] ascending: keys whose records are elsewhere since, at `changed_row` i32 [V], or nowhere (-1). Positions count
    from a behavior that had `first` older ones dropped after it; `distinct` keys are in the history.
    """

    key: Keys
    changed: Keys
    changed_row: I32
    rows: GrowingRows
    distinct: int
    first: int = 0
    index: HashIndex | None = field(default=None, repr=False, compare=False)

    @classmethod
    def build(cls, found: Occurring, time_L: I64, index: HashIndex | None = None) -> RecordTable:
        """Records of a whole history, oldest first. Args: `index` of the keys, where they are hashes."""
        time, count = time_L.astype(np.float64), np.diff(found.start)
        newest, decayed = found.place[found.start[1:] - 1], np.zeros((len(found.key), len(DECAY_DAYS)))
        if len(found.key):
            weight = decay(np.repeat(time[newest], count) - time[found.place])
            decayed = np.add.reduceat(weight, found.start[:-1], axis=0)
        columns = (count.astype(np.float64), time[found.place[found.start[:-1]]], time[newest], newest.astype(np.float64), decayed)
        return cls._made(found.key, columns, index)

    @classmethod
    def _made(cls, key: Keys, columns: tuple[F64, ...], index: HashIndex | None) -> RecordTable:
        return cls(key, key[:0], np.zeros(0, np.int32), GrowingRows.of(columns), len(key), 0, index)

    def places(self, key_N: Keys, indexed_N: I32 | None = None) -> I32:
        """Row of each key's record [N], int32; -1 where it is absent. Args: `indexed_N` the keys' rows in `index`, where they are known."""
        if indexed_N is not None:
            place = indexed_N
        elif self.index is not None:
            place = lookup_rows(key_N, self.index)
        elif len(self.key):
            at = np.minimum(np.searchsorted(self.key, key_N), len(self.key) - 1)
            place = np.where(self.key[at] == key_N, at, -1).astype(np.int32)
        else:
            place = np.full(len(key_N), -1, dtype=np.int32)
        if len(self.changed):
            at = np.minimum(np.searchsorted(self.changed, key_N), len(self.changed) - 1)
            place = np.where(self.changed[at] == key_N, self.changed_row[at], place)
        return place

    def by_code(self, size: int) -> I32:
        """Row of the record of each key 0..size - 1: i32 [size], -1 where it is absent."""
        row = np.full(size, -1, dtype=np.int32)
        row[self.key] = np.arange(len(self.key), dtype=np.int32)
        row[self.changed] = self.changed_row
        return row

    def lookup(self, key_N: Keys) -> KeyRecord:
        """Records of the given keys [N]; never-seen records where a key is absent."""
        place = self.places(key_N)
        record = KeyRecord(*self.rows.columns()).at(place.astype(np.intp))
        record.position[:] -= np.where(place >= 0, self.first, 0)
        return record

    def facts(self) -> KeyRecords:
        """The records as the compiled features read them; positions as here."""
        return KeyRecords(*self.rows.columns())

    def extended(self, keys_of: Callable[[slice], Keys], time_L: I64, key_M: Keys, time_M: I64, drop: int) -> RecordTable:
        """Records after M newer behaviors came and the `drop` oldest of L left. This table stays unchanged.

        Args: `keys_of` some of the L behaviors before; `drop` less than L.
        """
        touched, which = np.unique(np.concatenate([keys_of(slice(0, drop)), key_M]), return_inverse=True)
        place = self.places(touched)
        record = KeyRecord(*self.rows.columns()).at(place.astype(np.intp))
        for i in set(which[:drop].tolist()):
            _take_out(record, i, time_L[:drop][which[:drop] == i].astype(np.float64))
            if record.count[i] > 0:
                record.first_s[i] = time_L[_next(keys_of, touched[i], drop, len(time_L))]
        behaviors = self.first + len(time_L)
        for j, (i, now) in enumerate(zip(which[drop:].tolist(), time_M.tolist(), strict=True)):
            _put_in(record, i, float(now), behaviors + j)
        held = record.count > 0
        columns = (record.count, record.first_s, record.newest_s, record.position, record.decayed)
        rows = self.rows.appended([column[held] for column in columns])
        row = np.where(held, len(self.rows) - 1 + np.cumsum(held), -1).astype(np.int32)
        changed, changed_row = self._with(touched, row)
        distinct = self.distinct + int(np.count_nonzero(held)) - int(np.count_nonzero(place >= 0))
        return RecordTable(self.key, changed, changed_row, rows, distinct, self.first + drop, self.index)

    def _with(self, touched: Keys, row: I32) -> tuple[Keys, I32]:
        """`changed` and `changed_row` with these keys among them."""
        at = np.searchsorted(self.changed, touched)
        known = at < len(self.changed)
        known[known] = self.changed[at[known]] == touched[known]
        others = np.ones(len(self.changed), dtype=bool)
        others[at[known]] = False
        key, rows = np.concatenate([self.changed[others], touched]), np.concatenate([self.changed_row[others], row])
        order = np.argsort(key, kind="stable")
        return key[order], rows[order]

    def rebuilt(self, index: HashIndex | None = None) -> RecordTable:
        """The same records, none of them elsewhere, positions from the oldest behavior on. Args: `index` of keys that are hashes."""
        key = np.union1d(self.key, self.changed) if index is None else index.sorted_hash_V
        place = self.places(key)
        held = place >= 0
        columns = [column[place[held]] for column in self.rows.columns()]
        columns[3] -= self.first
        return self._made(key[held], tuple(columns), index)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        own = self.key.nbytes + self.changed.nbytes + self.changed_row.nbytes + self.rows.nbytes
        return own + (0 if self.index is None else self.index.nbytes)


def decay(seconds: F64) -> F64:
    """What is left of one behavior after so many seconds [M], by each time constant: f64 [M, decays]."""
    weight: F64 = np.exp(seconds[:, None] / -DAY_S / DECAY_DAYS)
    return weight


def _take_out(record: KeyRecord, i: int, time_s: F64) -> None:
    """Take the oldest behaviors of key `i` out of its record; not its time of the first."""
    record.count[i] -= len(time_s)
    record.decayed[i] -= decay(record.newest_s[i] - time_s).sum(axis=0)
    if record.count[i] <= 1:
        record.decayed[i] = record.count[i]


def _put_in(record: KeyRecord, i: int, now: float, position: int) -> None:
    """Put a newer behavior of key `i` into its record."""
    if record.count[i] == 0:
        record.first_s[i] = now
    record.decayed[i] = 1.0 + record.decayed[i] * np.exp(-(now - record.newest_s[i]) / DAY_S / DECAY_DAYS)
    record.count[i] += 1
    record.newest_s[i], record.position[i] = now, position


def _next(keys_of: Callable[[slice], Keys], key: Any, first: int, length: int) -> int:
    """Place of the first behavior of the key from `first` on, where there is one."""
    size = _SEARCHED
    while first < length:
        equal = keys_of(slice(first, first + size)) == key
        place = int(equal.argmax())
        if equal[place]:
            return first + place
        first, size = first + size, 2 * size
    raise AssertionError("a counted behavior is in the history")
