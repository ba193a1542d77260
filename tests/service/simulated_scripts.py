"""The scripts of service/lua once more, in Python and on plain dicts, so that a simulation can run them a million times.

`test_simulated_scripts.py` holds them to the real ones on a real server, byte by byte.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

SIZE = 16
Strings = dict[str, bytes]


@dataclass
class Keys:
    """What a server holds: strings, hashes, sorted sets (member to score), and which keys expire. `time_us` is its clock; `full` that it
    refuses what needs room."""

    string: Strings = field(default_factory=dict)
    hash: dict[str, Strings] = field(default_factory=dict)
    ranked: dict[str, dict[bytes, float]] = field(default_factory=dict)
    expires: dict[str, int] = field(default_factory=dict)
    time_us: Callable[[], int] = lambda: 0
    publish: Callable[[str, str], None] = lambda channel, message: None
    full: bool = False

    def names(self) -> list[str]:
        """Every key."""
        return [*self.string, *self.hash, *self.ranked]

    def remove(self, names: Sequence[str]) -> None:
        """UNLINK."""
        for name in names:
            for kind in (self.string, self.hash, self.ranked, self.expires):
                kind.pop(name, None)  # type: ignore[attr-defined]

    def set_expiry(self, names: Sequence[str], ttl_ms: int) -> None:
        """PEXPIRE, or PERSIST for 0."""
        for name in names:
            self.expires.pop(name, None)
            if ttl_ms > 0 and (name in self.string or name in self.hash or name in self.ranked):
                self.expires[name] = ttl_ms

    def need_room(self) -> None:
        """Raises: redis.OutOfMemoryError on a full server."""
        if self.full:
            raise redis.OutOfMemoryError("command not allowed when used memory > 'maxmemory'.")


def time_of(record: bytes) -> int:
    """Unix seconds of a record."""
    return int.from_bytes(record[8:12], "little")


def records_of(rows: bytes) -> list[bytes]:
    """The records of a packed string."""
    return [rows[place : place + SIZE] for place in range(0, len(rows), SIZE)]


def merged(rows: list[bytes], fresh: list[bytes]) -> list[bytes]:
    """`rows` with the `fresh`, both in order, each fresh one after those of its own time."""
    times, pieces, start = [time_of(row) for row in rows], list[bytes](), 0
    for record in fresh:
        place = bisect_right(times, time_of(record), start)
        pieces += rows[start:place]
        pieces.append(record)
        start = place
    return pieces + rows[start:]


def append(keys: Keys, names: Sequence[str], arguments: Sequence[Any]) -> list[int]:
    """append.lua. Raises: redis.ResponseError."""
    body, tail, meta, seen, _ = names
    longest, slack, tail_least, tail_most, remembered, ttl_ms = map(int, arguments[:6])
    records, sent_events = records_of(arguments[6]), list(arguments[7:])
    known, fresh, events = keys.ranked.get(seen, {}), list[bytes](), list[bytes]()
    for record, event in zip(records, sent_events, strict=True):
        if event == b"":
            fresh.append(record)
        elif event not in events and event not in known:
            events.append(event)
            fresh.append(record)
    if not fresh:
        return [0, len(records)]
    fresh.sort(key=time_of)
    held = keys.hash.get(meta, {})
    if held.get("schema", b"1") != b"1":
        raise redis.ResponseError(f"DARESCHEMA {held['schema'].decode()}")
    epoch, total, last = (int(held.get(name, b"0")) for name in ("epoch", "total", "last"))
    tail_rows, body_rows = records_of(keys.string.get(tail, b"")), records_of(keys.string.get(body, b""))
    if len(keys.string.get(body, b"") + keys.string.get(tail, b"")) != total * SIZE:
        raise redis.ResponseError("DAREDAMAGED")
    oldest, late = time_of(fresh[0]), total > 0 and time_of(fresh[0]) < last
    start, moved, rest = len(body_rows), list[bytes](), None
    if late and body_rows and oldest < time_of(tail_rows[0]):
        start = bisect_right([time_of(row) for row in body_rows], oldest)
        rows = merged(body_rows[start:] + tail_rows, fresh)
        moved, rest = rows[: len(rows) - len(tail_rows)], rows[len(rows) - len(tail_rows) :]
    elif late:
        rest = merged(tail_rows, fresh)
    new_epochs = int(not held or late)
    total, last = total + len(fresh), max(last, time_of(fresh[-1]))
    tail_limit = max(tail_least, min(tail_most, total // 32))
    if (len(rest) if rest is not None else len(tail_rows) + len(fresh)) > tail_limit:
        rest = rest if rest is not None else merged(tail_rows, fresh)
        kept = len(rest) - min(len(rest), math.ceil(tail_limit / 2))
        moved, rest = moved + rest[:kept], rest[kept:]
    surplus = total - longest if total > longest + slack else 0
    for _ in range(new_epochs + (surplus > 0)):
        epoch = max(epoch + 1, keys.time_us())
    keys.need_room()
    keys.hash[meta] = {
        "schema": b"1",
        "epoch": str(epoch).encode(),
        "total": str(total - surplus).encode(),
        "last": str(last).encode(),
    }
    keys.string[tail] = b"".join(rest if rest is not None else tail_rows + fresh)
    if surplus or moved:
        keys.string[body] = b"".join((body_rows[:start] + moved)[surplus:])
    if events:
        _remember(keys.ranked.setdefault(seen, {}), events, remembered)
    keys.set_expiry(names[:4], ttl_ms)
    return [len(fresh), len(records) - len(fresh)]


def _remember(known: dict[bytes, float], events: list[bytes], remembered: int) -> None:
    excess = len(known) + len(events) - remembered
    for member in sorted(known, key=lambda member: (known[member], member))[: max(0, excess)]:
        del known[member]
    place = max(known.values(), default=0)
    for event in events[-remembered:]:
        place += 1
        known[event] = place


def load(keys: Keys, names: Sequence[str], arguments: Sequence[Any]) -> int:
    """load.lua."""
    body, tail, meta, seen = names
    ttl_ms, last, body_rows, tail_rows = int(arguments[0]), str(int(arguments[1])), arguments[2], arguments[3]
    epoch = max(int(keys.hash.get(meta, {}).get("epoch", b"0")) + 1, keys.time_us())
    total = len(body_rows + tail_rows) // SIZE
    keys.need_room()
    keys.hash[meta] = {"schema": b"1", "epoch": str(epoch).encode(), "total": str(total).encode(), "last": last.encode()}
    keys.remove([body, tail, seen])
    for name, rows in ((body, body_rows), (tail, tail_rows)):
        if rows:
            keys.string[name] = rows
    keys.set_expiry([body, tail, meta], ttl_ms)
    return total


def delete(keys: Keys, names: Sequence[str], arguments: Sequence[Any]) -> int:
    """delete.lua."""
    total = int(keys.hash.get(names[2], {}).get("total", b"0"))
    keys.remove(names)
    keys.publish(*arguments)
    return total


def read(keys: Keys, names: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    """read.lua. Raises: redis.ResponseError."""
    body, tail, meta = names
    epoch, length, again, most = str(arguments[0]).encode(), *map(int, arguments[1:])
    held = keys.hash.get(meta)
    if held is None:
        return []
    if held["schema"] != b"1":
        raise redis.ResponseError(f"DARESCHEMA {held['schema'].decode()}")
    total = int(held["total"])
    if held["epoch"] != epoch or total < length or total - length > most:
        return [held["epoch"], total]
    rows = keys.string.get(body, b"") + keys.string.get(tail, b"")
    if len(rows) != total * SIZE:
        return [held["epoch"], total]
    return [held["epoch"], total, rows[max(0, length - again) * SIZE :]]


SCRIPTS: dict[str, Callable[[Keys, Sequence[str], Sequence[Any]], Any]] = {"append": append, "load": load, "delete": delete, "read": read}
"""By the name of the file in service/lua."""
