"""Prepared users, kept between requests within a limit in bytes."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from model.runtime import ScoringRuntime
from model.user_state import UserState
from service.behavior_store import BehaviorSequence
from service.metrics import Metrics

_COMPARED = 32
_AT_A_TIME = 64


class UserCache:
    """`UserState`s by (user, epoch, end of the sequence) for one model version, least recently used out first.

    A user whose sequence only grew, and lost its oldest behaviors, is extended; any other change prepares the user anew.
    """

    def __init__(self, runtime: ScoringRuntime, max_bytes: int, metrics: Metrics) -> None:
        self._runtime = runtime
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._held: OrderedDict[str, tuple[int, int, UserState]] = OrderedDict()
        self._bytes = 0
        self._erasures = 0
        self._lock = threading.Lock()

    def erasures(self) -> int:
        """How many users were forgotten so far: to be read before the store is."""
        return self._erasures

    def holds(self, user_id: str, sequence: BehaviorSequence, known: int) -> bool:
        """Whether `state` of these would be at hand or extended, not prepared anew."""
        with self._lock:
            held = self._held.get(user_id)
        return held is not None and held[0] == sequence.epoch and sequence.start <= held[1] <= sequence.start + known

    def state(self, user_id: str, sequence: BehaviorSequence, known: int, erasures: int) -> UserState:
        """The prepared form of the first `known` behaviors of the user's sequence.

        Args: `erasures` before the sequence was read; when a user was erased since, nothing is held, lest an erased user comes back.
        """
        end, wanted = sequence.start + known, min(known, self._runtime.longest)
        with self._lock:
            held = self._held.get(user_id)
            if held is not None:
                self._held.move_to_end(user_id)
        if held is not None and not _agrees(held, sequence, end):
            held = None
        if held is not None and held[1] == end and held[2].length == wanted:
            self._metrics.user_cache.labels("hit").inc()
            return held[2]
        if held is not None and held[1] <= end and end - held[1] + held[2].length >= wanted:
            self._metrics.user_cache.labels("extended").inc()
            new = slice(held[1] - sequence.start, known)
            state = self._runtime.extend(held[2], sequence.item_hash[new], sequence.timestamp[new], known)
        else:
            self._metrics.user_cache.labels("prepared").inc()
            state = self._runtime.prepare(sequence.item_hash[:known], sequence.timestamp[:known])
        self._hold(user_id, sequence, end, state, erasures)
        return state

    def last_used_first(self, least: int) -> list[str]:
        """The users held now with at least so many behaviors."""
        with self._lock:
            return [user_id for user_id, (_, _, state) in reversed(self._held.items()) if state.length >= least]

    def take_over(self, user_id: str, other: UserCache) -> bool:
        """Prepare a user as another version's cache holds them, to be the first to leave this one. Returns: False where there is no room.

        Whoever forgets a user lets the other cache do so first: nobody comes back through this.
        """
        erasures = self._erasures
        with other._lock:
            held = other._held.get(user_id)
        if held is None or user_id in self._held:
            return True
        epoch, end, state = held
        if self._bytes + state.nbytes > self._max_bytes:
            return False
        state = self._runtime.prepare(state.item_hash_L, state.timestamp_L)
        with self._lock:
            if erasures == self._erasures and user_id not in self._held:
                self._held[user_id] = (epoch, end, state)
                self._held.move_to_end(user_id, last=False)
                self._count(state.nbytes)
                self._shrink()
                self._metrics.user_cache.labels("ahead").inc()
        return True

    def forget(self, user_id: str) -> None:
        """Drop what is held about the user."""
        with self._lock:
            self._erasures += 1
            self._drop(user_id)

    def state_bytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def limit(self, max_bytes: int) -> None:
        """Hold at most so many bytes from now on."""
        with self._lock:
            self._max_bytes = max_bytes
            self._shrink()

    def retire(self, rest: Callable[[], None] = lambda: None) -> None:
        """Let go of everything and hold nothing any more: the model version answers no new request.

        Args: `rest` is called after every few users.
        """
        with self._lock:
            self._max_bytes = 0
        while self._held:
            with self._lock:
                for user_id in list(itertools.islice(self._held, _AT_A_TIME)):
                    self._drop(user_id)
            rest()

    def _hold(self, user_id: str, sequence: BehaviorSequence, end: int, state: UserState, erasures: int) -> None:
        with self._lock:
            if erasures != self._erasures:
                return
            other = self._held.get(user_id)
            if other is not None and other[1] > end and _agrees(other, sequence, end):
                return  # another request has seen more behaviors meanwhile
            self._drop(user_id)
            self._held[user_id] = (sequence.epoch, end, state)
            self._count(state.nbytes)
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes and self._held:
            self._drop(next(iter(self._held)))

    def _drop(self, user_id: str) -> None:
        held = self._held.pop(user_id, None)
        if held is not None:
            self._count(-held[2].nbytes)

    def _count(self, nbytes: int) -> None:
        self._bytes += nbytes
        # Several model versions may hold users at a time: the gauge is their sum.
        self._metrics.user_cache_bytes.inc(nbytes)


def _agrees(held: tuple[int, int, UserState], sequence: BehaviorSequence, end: int) -> bool:
    """Whether the state and the behaviors up to `end` are of one history: the same epoch, and the same newest of those they share.

    The epoch says so already, unless a shared store has lost behaviors that it had acknowledged and has taken others in their place.
    """
    epoch, of_state, state = held
    shared, first = min(of_state, end), of_state - state.length
    compared = min(_COMPARED, shared - max(first, sequence.start))
    if epoch != sequence.epoch:
        return False
    if compared <= 0:
        return end < of_state or (compared == 0 and state.length == 0)
    rows = slice(shared - compared - sequence.start, shared - sequence.start)
    rows_in_state = slice(shared - compared - first, shared - first)
    return np.array_equal(sequence.item_hash[rows], state.item_hash_L[rows_in_state]) and np.array_equal(
        sequence.timestamp[rows], state.timestamp_L[rows_in_state]
    )
