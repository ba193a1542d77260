"""An interaction log in memory: every user's behaviors as flat arrays, users one after the other, oldest first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class InteractionLog:
    """E behaviors of U users over I items.

    `user_id` [U], `item_id` [I], `category_id` [C] are the ids as text; all other fields use codes into them.
    `user_start` i64 [U + 1]: user u's behaviors are `user_start[u]:user_start[u + 1]`, ordered by (timestamp, place in the file).
    `item` i32 [E], `timestamp` i64 [E] unix seconds, `session` i64 [E] (equal values: one session of one user).
    `item_category` i32 [I], -1 for an item without category. `item_text`: descriptive columns, each [I] texts.
    `skipped`: rows left out on request, as "file: row N: reason".
    """

    user_id: list[str]
    item_id: list[str]
    category_id: list[str]
    user_start: I64
    item: I32
    timestamp: I64
    session: I64
    item_category: I32
    item_text: dict[str, list[str]]
    skipped: tuple[str, ...] = ()

    @property
    def num_behaviors(self) -> int:
        """E."""
        return len(self.item)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.user_id)

    def user_of_behavior(self) -> I64:
        """User code of every behavior: i64 [E]."""
        return np.repeat(np.arange(self.num_users, dtype=np.int64), np.diff(self.user_start))

    def digest(self) -> str:
        """Hash of everything that training reads: 32 hex digits; two logs with one digest are the same data."""
        state = xxhash.xxh3_128()
        for array in (self.user_start, self.item, self.timestamp, self.session, self.item_category):
            state.update(array.tobytes())
            state.update(b"|")
        for ids in (self.user_id, self.item_id, self.category_id):
            state.update("\0".join(ids).encode())
            state.update(b"|")
        return state.hexdigest()

    def describe(self) -> dict[str, object]:
        """Size and span of the log, as plain JSON values."""
        length = np.diff(self.user_start)
        return {
            "behaviors": self.num_behaviors,
            "users": self.num_users,
            "items": len(self.item_id),
            "categories": len(self.category_id),
            "first_timestamp": int(self.timestamp.min()) if self.num_behaviors else None,
            "last_timestamp": int(self.timestamp.max()) if self.num_behaviors else None,
            "median_length": float(np.median(length)) if self.num_users else 0.0,
            "longest": int(length.max()) if self.num_users else 0,
            "skipped_rows": len(self.skipped),
        }
