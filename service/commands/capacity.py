"""`dare capacity`: what a store on Redis or Valkey will hold in memory, from measured constants (docs/operations.md, "Memory")."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from service.behavior_store import MAX_LENGTH, REMEMBERED_EVENTS
from service.commands.terminal import console

USER_BYTES = 400
"""One user's keys, their entries and expiry times."""
BEHAVIOR_BYTES = 17.0
"""A record of 16 bytes, and the room in which the newest ones grow."""
EVENT_BYTES = 15
"""One remembered event id."""
LOG_BYTES = 700
"""What one behavior, posted alone, adds to the append-only file until that is rewritten."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes of a store: in memory; per behavior; `maxmemory` with room for a rewrite of the log under writes; log per day."""

    stored_bytes: int
    bytes_per_behavior: float
    maxmemory_bytes: int
    log_bytes_per_day: int


def capacity(users: int, behaviors: int, events: bool, posted_per_day: int) -> Capacity:
    """Plan a store.

    Args: `users`; `behaviors` of each, of which the newest 100,000 are kept; `events` whether they are posted with an event id;
    `posted_per_day` behaviors of all users together, one a request.
    Raises: ValueError for numbers that no store has.
    """
    for name, value, least in (("users", users, 1), ("behaviors", behaviors, 1), ("posted-per-day", posted_per_day, 0)):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    kept = min(behaviors, MAX_LENGTH)
    of_user = USER_BYTES + BEHAVIOR_BYTES * kept + (EVENT_BYTES * min(kept, REMEMBERED_EVENTS) if events else 0)
    stored = round(users * of_user)
    return Capacity(stored, round(of_user / kept, 2), round(stored * 1.25), posted_per_day * LOG_BYTES)


def capacity_command(users: int, behaviors: int, events: bool, posted_per_day: int, as_json: bool) -> None:
    """See `dare capacity`."""
    planned = capacity(users, behaviors, events, posted_per_day)
    if as_json:
        print(json.dumps(asdict(planned)))
        return
    console.print(f"{users:,} users with {min(behaviors, MAX_LENGTH):,} behaviors each{', event ids' if events else ''}:")
    console.print(f"  in memory        {_shown(planned.stored_bytes):>10}   ({planned.bytes_per_behavior} bytes a behavior)")
    console.print(f"  maxmemory        {_shown(planned.maxmemory_bytes):>10}   (with a quarter to spare for rewriting the log)")
    if posted_per_day:
        console.print(f"  log, until rewritten {_shown(planned.log_bytes_per_day):>6} a day")
    console.print("On top of it, in each worker: DARE_STORE_CACHE_BYTES and DARE_USER_CACHE_BYTES.")


def _shown(size: int) -> str:
    value, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f} {unit}"
