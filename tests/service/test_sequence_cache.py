"""Replies of one server to two threads of one process, in whatever order they come."""

from __future__ import annotations

import numpy as np

from service.sequence_cache import AGAIN, RECORD, Held, SequenceCache


def records(*items: int) -> bytes:
    rows = np.zeros(len(items), RECORD)
    rows["item_hash"] = rows["timestamp"] = items
    return rows.tobytes()


def holding(*items: int) -> tuple[SequenceCache, Held]:
    cache, held = SequenceCache(2**20, 1000), Held(1, records(*items), verified_at=0.0)
    cache.replace("u", held, cache.erasures)
    return cache, held


def test_two_replies_extend_once_whichever_comes_first() -> None:
    for first, second in [((4,), (4, 5)), ((4, 5), (4,)), ((), (4, 5)), ((4, 5), ())]:
        cache, held = holding(1, 2, 3)
        for new in (first, second):
            extended = cache.extend("u", held, 3, records(1, 2, 3, *new), 1.0)
            assert extended is not None and extended.item_hash.tolist() == extended.timestamp.tolist() == [1, 2, 3, *new]
        assert cache.recall("u", 0.0).item_hash.tolist() == [1, 2, 3, 4, 5]


def test_replies_from_before_and_after_a_failover_are_not_mixed() -> None:
    """Both threads asked with three behaviors; one was answered before the server lost 4 and 5, the other after it had taken 14, 15, 16."""
    before, after = (1, 2, 3, 4, 5), (1, 2, 3, 14, 15, 16)
    for first, second in [(before, after), (after, before)]:
        cache, held = holding(1, 2, 3)
        assert cache.extend("u", held, 3, records(*first), 1.0) is not None
        assert cache.extend("u", held, 3, records(*second), 1.0) is None, "to be read anew"
        assert cache.get("u") is None


def test_a_history_grows_by_little_and_by_much_and_its_views_stay() -> None:
    cache, held = holding(*range(100))
    first, length = held.view(100, 1000), 100
    for new in (1, 0, 2, 40, 1, 300, 1):
        reply = range(length - AGAIN, length + new)
        extended = cache.extend("u", held, length, records(*reply), 1.0)
        length += new
        assert extended is not None and extended.item_hash.tolist() == extended.timestamp.tolist() == list(range(length))
    assert first.item_hash.tolist() == list(range(100))
    changed = records(*range(length - AGAIN, length - 1), 7)
    assert cache.extend("u", held, length, changed, 1.0) is None, "the server holds another newest behavior"
