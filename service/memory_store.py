"""The in-process behavior store: growth buffers per user, gone with the process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from service.behavior_store import EMPTY, I64, MAX_LENGTH, REMEMBERED_EVENTS, U64, Appended, BehaviorSequence, NewBehavior

_SLACK = 1024
"""Behaviors over the maximum before a user's arrays are cut, so that the cut costs little per append."""


class _User:
    """One user's behaviors. Readers hold views of the arrays: rows below `length` are never rewritten, late behaviors get new arrays.

    The arrays may hold up to `_SLACK` behaviors more than a reader is shown; `cut` older ones they no longer hold.
    """

    __slots__ = ("cut", "epoch", "event", "item_hash", "length", "timestamp")

    def __init__(self, epoch: int) -> None:
        self.item_hash: U64 = np.empty(8, np.uint64)
        self.timestamp: I64 = np.empty(8, np.int64)
        self.length = self.cut = 0
        self.epoch = epoch
        self.event: OrderedDict[int, None] = OrderedDict()

    def view(self, max_length: int) -> BehaviorSequence:
        rows = slice(max(0, self.length - max_length), self.length)
        item_hash, timestamp = self.item_hash[rows], self.timestamp[rows]
        item_hash.flags.writeable = timestamp.flags.writeable = False
        return BehaviorSequence(item_hash, timestamp, self.epoch, self.cut + rows.start)

    def replace(self, item_hash: U64, timestamp: I64, epoch: int) -> None:
        self.item_hash, self.timestamp = item_hash, timestamp
        self.length, self.epoch = len(item_hash), epoch


class MemoryStore:
    """See `service.behavior_store.BehaviorStore`. Epochs are never used twice, not even by a user erased and seen again.

    Args: `max_length` newest behaviors kept of one user.
    """

    def __init__(self, max_length: int = MAX_LENGTH) -> None:
        self._max_length = max_length
        self._user: dict[str, _User] = {}
        self._lock = threading.Lock()
        self._epoch = 0

    def append(self, behaviors: Sequence[NewBehavior]) -> Appended:
        """See `BehaviorStore.append`."""
        with self._lock:
            fresh = self._without_duplicates(behaviors)
            self._write(fresh)
            for behavior in fresh:
                self._apply(behavior)
        return Appended(len(fresh), len(behaviors) - len(fresh))

    def load(self, user_id: str, item_hash: U64, timestamp: I64) -> int:
        """See `BehaviorStore.load`. Raises: ValueError when the times are not sorted."""
        if len(timestamp) > 1 and (np.diff(timestamp) < 0).any():
            raise ValueError(f"user {user_id!r}: timestamps must be sorted, oldest first")
        kept = slice(max(0, len(item_hash) - self._max_length), None)
        with self._lock:
            self._write_load(user_id, item_hash[kept], timestamp[kept])
            self._apply_load(user_id, item_hash[kept], timestamp[kept])
        return min(len(item_hash), self._max_length)

    def read(self, user_id: str) -> BehaviorSequence:
        """See `BehaviorStore.read`."""
        with self._lock:
            user = self._user.get(user_id)
            return EMPTY if user is None else user.view(self._max_length)

    def read_known(self, user_ids: Sequence[str]) -> dict[str, BehaviorSequence]:
        """See `BehaviorStore.read_known`."""
        return {user_id: self.read(user_id) for user_id in user_ids}

    def recall(self, user_id: str) -> BehaviorSequence:
        """See `BehaviorStore.recall`."""
        return self.read(user_id)

    def on_erased(self, forget: Callable[[str], None]) -> None:
        """No other process can erase a user."""

    def available(self) -> bool:
        """Always."""
        return True

    def delete(self, user_id: str) -> int:
        """See `BehaviorStore.delete`."""
        with self._lock:
            user = self._user.pop(user_id, None)
            if user is None:
                return 0
            try:
                self._write_delete(user_id)
            except BaseException:
                self._user[user_id] = user
                raise
            return min(user.length, self._max_length)

    def users(self) -> Iterator[tuple[str, int]]:
        """See `BehaviorStore.users`."""
        with self._lock:
            listed = [(user_id, min(user.length, self._max_length)) for user_id, user in self._user.items()]
        return iter(listed)

    def close(self) -> None:
        """Nothing is kept."""

    # What a durable store does before memory changes; raising leaves memory as it was.
    def _write(self, behaviors: Sequence[NewBehavior]) -> None: ...

    def _write_load(self, user_id: str, item_hash: U64, timestamp: I64) -> None: ...

    def _write_delete(self, user_id: str) -> None: ...

    def _without_duplicates(self, behaviors: Sequence[NewBehavior]) -> list[NewBehavior]:
        fresh, added = [], set()
        for behavior in behaviors:
            key = (behavior.user_id, behavior.event_hash)
            if behavior.event_hash is not None:
                user = self._user.get(behavior.user_id)
                if key in added or (user is not None and behavior.event_hash in user.event):
                    continue
                added.add(key)
            fresh.append(behavior)
        return fresh

    def _apply(self, behavior: NewBehavior) -> None:
        user = self._user.get(behavior.user_id)
        if user is None:
            user = self._user[behavior.user_id] = _User(self._next_epoch())
        if behavior.event_hash is not None:
            user.event[behavior.event_hash] = None
            if len(user.event) > REMEMBERED_EVENTS:
                user.event.popitem(last=False)
        length = user.length
        if length and behavior.timestamp < user.timestamp[length - 1]:
            at = int(np.searchsorted(user.timestamp[:length], behavior.timestamp, side="right"))
            user.replace(
                np.insert(user.item_hash[:length], at, np.uint64(behavior.item_hash)),
                np.insert(user.timestamp[:length], at, behavior.timestamp),
                self._next_epoch(),
            )
        else:
            if length == len(user.item_hash):
                user.item_hash = np.concatenate([user.item_hash, np.empty(max(8, length // 4), np.uint64)])
                user.timestamp = np.concatenate([user.timestamp, np.empty(max(8, length // 4), np.int64)])
            user.item_hash[length] = behavior.item_hash
            user.timestamp[length] = behavior.timestamp
            user.length = length + 1
        if user.length > self._max_length + _SLACK:
            rows = slice(user.length - self._max_length, user.length)
            user.cut += rows.start
            user.replace(user.item_hash[rows].copy(), user.timestamp[rows].copy(), user.epoch)

    def _apply_load(self, user_id: str, item_hash: U64, timestamp: I64) -> None:
        user = self._user[user_id] = _User(self._next_epoch())
        user.replace(np.array(item_hash, dtype=np.uint64), np.array(timestamp, dtype=np.int64), user.epoch)

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch
