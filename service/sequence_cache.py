"""Behavior sequences that this process has read, kept within a limit in bytes, so that a read fetches only what is new."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np

from service.behavior_store import EMPTY, I64, U64, BehaviorSequence


class Held:
    """One user's sequence as read so far. Readers hold views: rows below `length` are never rewritten."""

    __slots__ = ("epoch", "item_hash", "length", "timestamp", "verified_at")

    def __init__(self, epoch: int, item_hash: U64, timestamp: I64, verified_at: float) -> None:
        self.epoch = epoch
        self.item_hash, self.timestamp = item_hash, timestamp
        self.length = len(item_hash)
        self.verified_at = verified_at

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.item_hash.nbytes + self.timestamp.nbytes

    def ends_with(self, length: int, item_hash: U64, timestamp: I64) -> bool:
        """Whether these are the newest of the first `length` behaviors."""
        rows = slice(length - len(item_hash), length)
        return bool((self.item_hash[rows] == item_hash).all() and (self.timestamp[rows] == timestamp).all())

    def append(self, item_hash: U64, timestamp: I64) -> None:
        """Add newer behaviors."""
        length = self.length + len(item_hash)
        if length > len(self.item_hash):
            room = length // 8 + 64
            self.item_hash = np.concatenate([self.item_hash[: self.length], item_hash, np.empty(room, np.uint64)])
            self.timestamp = np.concatenate([self.timestamp[: self.length], timestamp, np.empty(room, np.int64)])
        else:
            self.item_hash[self.length : length] = item_hash
            self.timestamp[self.length : length] = timestamp
        self.length = length

    def view(self, length: int, longest: int) -> BehaviorSequence:
        """The newest `longest` of the first `length` behaviors. What is left out at the beginning is part of the epoch."""
        rows = slice(max(0, length - longest), length)
        item_hash, timestamp = self.item_hash[rows], self.timestamp[rows]
        item_hash.flags.writeable = timestamp.flags.writeable = False
        return BehaviorSequence(item_hash, timestamp, (self.epoch << 32) + rows.start)


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

    def extend(
        self, user_id: str, held: Held, known: int, item_hash: U64, timestamp: I64, again: int, verified_at: float
    ) -> BehaviorSequence | None:
        """The sequence with what came after its first `known` behaviors; the first `again` of the given ones repeat the newest of those.

        Returns: None where those that are held already differ: the server has lost behaviors that it had acknowledged and taken others
        since, perhaps while another thread was asking.
        """
        with self._lock:
            both = min(len(item_hash), again + held.length - known)
            if not held.ends_with(known - again + both, item_hash[:both], timestamp[:both]):
                self._drop(user_id)
                return None
            length = known + len(item_hash) - again
            if length > held.length:  # else another thread was faster
                place = again + held.length - known
                before = held.nbytes
                held.append(item_hash[place:], timestamp[place:])
                if self._held.get(user_id) is held:
                    self._bytes += held.nbytes - before
                    self._shrink()
            held.verified_at = max(held.verified_at, verified_at)
            return held.view(length, self._longest)

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
