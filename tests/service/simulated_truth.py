"""What a store must hold, kept as plainly as can be: sorted lists, and every state in which each user ever was."""

from __future__ import annotations

from bisect import insort_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.redis_store import RECORD

Row = tuple[int, int]
"""Timestamp, item hash."""


@dataclass(frozen=True)
class Version:
    """One state of a user: since when, and whether an erasure made it."""

    at_s: float
    rows: list[Row]
    erased: bool


@dataclass
class Held:
    """Rows of each user and the events that are known again."""

    rows: dict[str, list[Row]]
    events: dict[str, set[bytes]]

    def copied(self) -> Held:
        """As it is now: rows and events are replaced, never changed."""
        return Held(dict(self.rows), dict(self.events))


@dataclass
class Truth:
    """Told of every script that the server executes and of all that befalls it. `owner` of every item ever sent: no two users share one.

    `applied` are the items ever stored, `doubled` those appended to a user who held them; `destroyed` counts those that the server itself
    lost, by how.
    """

    users: Sequence[str]
    longest: int
    clock: Callable[[], float]
    owner: dict[int, str] = field(default_factory=dict)
    applied: set[int] = field(default_factory=set)
    doubled: set[int] = field(default_factory=set)
    destroyed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.now = Held({user: [] for user in self.users}, {user: set() for user in self.users})
        self.backup = self.now.copied()
        self.history = {user: [Version(self.clock(), [], erased=False)] for user in self.users}

    def apply(self, script: str, arguments: Sequence[Any]) -> None:
        """What the script of this name changed."""
        if script == "append":
            self._append(_rows(arguments[6]), arguments[7:])
        elif script == "load":
            rows = _rows(arguments[2] + arguments[3])
            self._change(self.owner[rows[0][1]], rows, set())
            self.applied.update(item for _, item in rows)
        elif script == "delete":
            self._change(arguments[1], [], set(), erased=True)

    def _append(self, rows: list[Row], events: Sequence[bytes]) -> None:
        user = self.owner[rows[0][1]]
        held, known = list(self.now.rows[user]), set(self.now.events[user])
        for row, event in zip(rows, events, strict=True):
            if event not in known:
                if row in held:
                    self.doubled.add(row[1])
                insort_right(held, row, key=lambda held_row: held_row[0])
                self.applied.add(row[1])
                known.update({event} - {b""})
        self._change(user, held, known)

    def replicate(self) -> None:
        """See `SimulatedServer.replicate`."""
        self.backup = self.now.copied()

    def restore(self) -> None:
        """See `SimulatedServer.restore`."""
        for user in self.users:
            lost = set(self.now.rows[user]) - set(self.backup.rows[user])
            self.destroyed["failover"] += len(lost)
            self._change(user, self.backup.rows[user], self.backup.events[user])

    def lose(self, user: str, how: str) -> None:
        """The server dropped the user without being asked."""
        self.destroyed[how] += len(self.now.rows[user])
        self._change(user, [], set())

    def _change(self, user: str, rows: list[Row], events: set[bytes], erased: bool = False) -> None:
        self.now.rows[user], self.now.events[user] = rows[-self.longest :], events
        self.history[user].append(Version(self.clock(), self.now.rows[user], erased))

    def latest(self, user: str, holds: Callable[[Version], bool]) -> int:
        """Place of the user's latest version that `holds`, -1 for none."""
        history = self.history[user]
        return next((place for place in range(len(history) - 1, -1, -1) if holds(history[place])), -1)


def _rows(packed: bytes) -> list[Row]:
    records = np.frombuffer(packed, RECORD)
    return list(zip(records["timestamp"].tolist(), records["item_hash"].tolist(), strict=True))
