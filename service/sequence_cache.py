"""Behavior sequences that this process has read, kept within a limit in bytes, so that a read fetches only what is new."""

from __future__ import annotations

import threading
from collections import OrderedDict
from struct import Struct

import numpy as np

from service.behavior_store import EMPTY, BehaviorSequence

RECORD = np.dtype([("item_hash", "<u8"), ("timestamp", "<u4"), ("bits", "<u4")])
"""One behavior as a shared store holds it, 16 bytes; no bit is used yet."""
_ONE = Struct("<QI")
AGAIN = 32
"""Newest known behaviors that a read repeats, to find out that the server lost them."""


class Held:
    """One user's sequence as read so far. Readers hold views: rows below `length` are never rewritten."""

    __slots__ = ("epoch", "item_hash", "length", "newest", "timestamp", "verified_at")

    def __init__(self, epoch: int, records: bytes, verified_at: float) -> None:
        rows = np.frombuffer(records, RECORD)
        self.epoch = epoch
        self.item_hash, self.timestamp = np.ascontiguousarray(rows["item_hash"]), rows["timestamp"].astype(np.int64)
        self.newest = records[-AGAIN * RECORD.itemsize :]
        """The records of the newest behaviors, `AGAIN` where there are as many."""
        self.length = len(rows)
        self.verified_at = verified_at

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.item_hash.nbytes + self.timestamp.nbytes

    def unheld(self, known: int, records: bytes) -> bytes | None:
        """What is not held yet of the records of the newest `AGAIN` of the first `known` behaviors and of all that came after; None where
        those that are held differ."""
        if known == self.length:
            return records[len(self.newest) :] if records.startswith(self.newest) else None
        # Another thread was faster: some of what came after is held too.
        start = max(0, known - AGAIN)
        rows = np.frombuffer(records, RECORD)[: self.length - start]
        held = slice(start, start + len(rows))
        alike = (self.item_hash[held] == rows["item_hash"]).all() and (self.timestamp[held] == rows["timestamp"]).all()
        return records[len(rows) * RECORD.itemsize :] if alike else None

    def append(self, records: bytes) -> None:
        """Add newer behaviors."""
        new = len(records) // RECORD.itemsize
        length = self.length + new
        if length > len(self.item_hash):
            room = new + length // 8 + 64
            self.item_hash = np.concatenate([self.item_hash[: self.length], np.empty(room, np.uint64)])
            self.timestamp = np.concatenate([self.timestamp[: self.length], np.empty(room, np.int64)])
        if new == 1:  # as a rule: a tenth of the time that arrays take
            self.item_hash[self.length], self.timestamp[self.length] = _ONE.unpack_from(records)
        else:
            rows = np.frombuffer(records, RECORD)
            self.item_hash[self.length : length] = rows["item_hash"]
            self.timestamp[self.length : length] = rows["timestamp"]
        self.newest = (self.newest + records)[-AGAIN * RECORD.itemsize :]
        self.length = length

    def view(self, length: int, longest: int) -> BehaviorSequence:
        """The newest `longest` of the first `length` behaviors."""
        rows = slice(max(0, length - longest), length)
        item_hash, timestamp = self.item_hash[rows], self.timestamp[rows]
        item_hash.flags.writeable = timestamp.flags.writeable = False
        return BehaviorSequence(item_hash, timestamp, self.epoch, rows.start)


class SequenceCache:
    """`Held` sequences by user, least recently used out first; thread safe.

    Args: `max_bytes` of the arrays; `longest` newest behaviors shown of one user.
    """

    def __init__(self, max_bytes: int, longest: int) -> None:
        self._max_bytes = max_bytes
        self._longest = longest
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.erasures = 0

    def get(self, user_id: str) -> Held | None:
        """What is held of the user."""
        with self._lock:
            held = self._held.get(user_id)
            if held is not None:
                self._held.move_to_end(user_id)
            return held

    def replace(self, user_id: str, held: Held, erasures: int) -> BehaviorSequence:
        """Hold a whole sequence, unless a user was erased since `erasures` was read: it may be this one."""
        with self._lock:
            if erasures == self.erasures:
                self._drop(user_id)
                self._held[user_id] = held
                self._bytes += held.nbytes
                self._shrink()
            return held.view(held.length, self._longest)

    def extend(self, user_id: str, held: Held, known: int, records: bytes, verified_at: float) -> BehaviorSequence | None:
        """The sequence with what came after its first `known` behaviors. Args: `records` of the newest `AGAIN` of those and of what came.

        Returns: None where those that are held already differ: the server has lost behaviors that it had acknowledged and taken others
        since, perhaps while another thread was asking.
        """
        with self._lock:
            unheld = held.unheld(known, records)
            if unheld is None:
                self._drop(user_id)
                return None
            if unheld:
                before = held.nbytes
                held.append(unheld)
                if self._held.get(user_id) is held:
                    self._bytes += held.nbytes - before
                    self._shrink()
            held.verified_at = max(held.verified_at, verified_at)
            return held.view(max(0, known - AGAIN) + len(records) // RECORD.itemsize, self._longest)

    def recall(self, user_id: str, verified_since: float) -> BehaviorSequence:
        """What is held of the user if it was seen in the store since then (monotonic s), else `EMPTY`."""
        with self._lock:
            held = self._held.get(user_id)
            if held is None or held.verified_at < verified_since:
                return EMPTY
            return held.view(held.length, self._longest)

    def forget(self, user_id: str) -> None:
        """Drop an erased user."""
        with self._lock:
            self.erasures += 1
            self._drop(user_id)

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, user_id: str) -> None:
        held = self._held.pop(user_id, None)
        if held is not None:
            self._bytes -= held.nbytes
