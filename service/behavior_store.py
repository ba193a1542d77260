"""The behavior store: what every store promises, and what it is made of (docs/operations.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

MAX_LENGTH = 100_000
"""Newest behaviors kept of one user."""
REMEMBERED_EVENTS = 128
"""Event ids remembered of one user, so that a retry is recognised."""


class StoreError(RuntimeError):
    """The store cannot be opened or is damaged; the message says where."""


class StoreFull(RuntimeError):
    """The store cannot take more now; nothing of the refused append was kept."""


class StoreUnavailable(RuntimeError):
    """The store does not answer now. What was being appended may be stored or not: sent again with its event id, it is stored once."""


@dataclass(frozen=True, slots=True)
class NewBehavior:
    """One behavior to append; `event_hash` None when the caller gave no event id."""

    user_id: str
    item_hash: int
    timestamp: int
    event_hash: int | None


@dataclass(frozen=True, slots=True)
class BehaviorSequence:
    """One user's behaviors, oldest first, ordered by (timestamp, arrival): read-only views that never change.

    `start` older ones were left out. While `epoch` stays the same, a user's behaviors keep their places, counted with those left out: what
    two sequences both hold of them is alike.
    """

    item_hash: U64
    timestamp: I64
    epoch: int
    start: int = 0

    def __len__(self) -> int:
        return len(self.item_hash)


EMPTY = BehaviorSequence(np.zeros(0, np.uint64), np.zeros(0, np.int64), -1)
"""What a user never seen has."""


@dataclass(frozen=True, slots=True)
class Appended:
    """Outcome of an append."""

    accepted: int
    duplicates: int


class BehaviorStore(Protocol):
    """Behaviors of all users; thread safe."""

    def append(self, behaviors: Sequence[NewBehavior]) -> Appended:
        """Append all or nothing of each user; once this returns, every read of the user holds them. Raises: StoreFull, StoreUnavailable."""

    def load(self, user_id: str, item_hash: U64, timestamp: I64) -> int:
        """Bulk form for one user, sorted by time: replaces what is held about the user; returns the behaviors kept. Raises: StoreFull,
        StoreUnavailable."""

    def read(self, user_id: str) -> BehaviorSequence:
        """The user's behaviors, `EMPTY` for a user never seen. Raises: StoreUnavailable."""

    def read_known(self, user_ids: Sequence[str]) -> dict[str, BehaviorSequence]:
        """The behaviors of those of the users whom the store can answer for in one exchange: the others are to be read one by one. Raises:
        StoreUnavailable."""

    def recall(self, user_id: str) -> BehaviorSequence:
        """What this process last read of the user, without asking the store; `EMPTY` where that may have been erased since."""

    def delete(self, user_id: str) -> int:
        """Erase everything held about the user; returns the behaviors erased. Raises: StoreFull, StoreUnavailable."""

    def on_erased(self, forget: Callable[[str], None]) -> None:
        """Call `forget(user_id)` whenever another process erases a user."""

    def users(self) -> Iterator[tuple[str, int]]:
        """(user_id, length) of every user, in no particular order. Raises: StoreUnavailable."""

    def available(self) -> bool:
        """Whether the store answers now; waits no longer than a read does."""

    def close(self) -> None:
        """Make everything durable and let go of it."""
