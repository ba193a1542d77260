"""The sample protocol one behavior at a time, in whole numbers: what `model/data/protocol.py` must equal."""

from __future__ import annotations

from model.data.log import InteractionLog


def split_of(place: int, length: int, train_percent: int = 70, validation_percent: int = 10) -> int:
    """0 training, 1 validation, 2 test: by the place among the user's own behaviors, oldest first."""
    if place < length * train_percent // 100:
        return 0
    return 1 if place < length * (train_percent + validation_percent) // 100 else 2


def history_end(log: InteractionLog, event: int) -> int:
    """Index of the first behavior of the user that is of the target's session or not older than the target's own second."""
    user = next(u for u in range(log.num_users) if log.user_start[u] <= event < log.user_start[u + 1])
    first, last = int(log.user_start[user]), int(log.user_start[user + 1])
    for index in range(first, last):
        if log.session[index] == log.session[event] or log.timestamp[index] >= log.timestamp[event]:
            return index
    raise AssertionError("the target itself is of its own session")
