"""Replies of one server to two threads of one process, in whatever order they come."""

from __future__ import annotations

import numpy as np

from service.sequence_cache import Held, SequenceCache


def rows(*items: int) -> tuple[np.ndarray, np.ndarray]:
    return np.array(items, np.uint64), np.array(items, np.int64)


def holding(*items: int) -> tuple[SequenceCache, Held]:
    cache, held = SequenceCache(2**20, 100), Held(1, *rows(*items), verified_at=0.0)
    cache.replace("u", held, cache.erasures)
    return cache, held


def test_two_replies_extend_once_whichever_comes_first() -> None:
    for first, second in [((3, 4), (3, 4, 5)), ((3, 4, 5), (3, 4))]:
        cache, held = holding(1, 2, 3)
        for reply in (first, second):
            extended = cache.extend("u", held, 3, *rows(*reply), 1, 1.0)
            assert extended is not None and extended.item_hash.tolist() == [1, 2, *reply]
        assert cache.recall("u", 0.0).item_hash.tolist() == [1, 2, 3, 4, 5]


def test_replies_from_before_and_after_a_failover_are_not_mixed() -> None:
    """Both threads asked with three behaviors; one was answered before the server lost 4 and 5, the other after it had taken 14, 15, 16."""
    before, after = (3, 4, 5), (3, 14, 15, 16)
    for first, second in [(before, after), (after, before)]:
        cache, held = holding(1, 2, 3)
        assert cache.extend("u", held, 3, *rows(*first), 1, 1.0) is not None
        assert cache.extend("u", held, 3, *rows(*second), 1, 1.0) is None, "to be read anew"
        assert cache.get("u") is None
