"""The cache of prepared users never answers with anything but what the store holds, within its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from model.user_state import UserState
from service.behavior_store import BehaviorSequence, NewBehavior
from service.memory_store import MemoryStore
from service.metrics import Metrics
from service.user_cache import UserCache
from tests.conftest import Tiny


@pytest.fixture(scope="module")
def runtime(tiny: Tiny) -> ScoringRuntime:
    return ScoringRuntime.load(tiny.artifacts)


ITEM = hash_item_ids([f"item-{i}" for i in range(300)])


class Cached:
    """A cache over a store, and what it counted."""

    def __init__(self, runtime: ScoringRuntime, max_bytes: int = 2**30, max_length: int = 100_000) -> None:
        self.metrics = Metrics()
        self.cache = UserCache(runtime, max_bytes, self.metrics)
        self.store = MemoryStore(max_length)

    def append(self, user: str, item: int, time: int) -> None:
        self.store.append([NewBehavior(user, int(ITEM[item]), time, None)])

    def read(self, user: str, known: int | None = None) -> UserState:
        """The state, checked to hold the first `known` of the user's behaviors."""
        erasures = self.cache.erasures()
        sequence = self.store.read(user)
        known = len(sequence) if known is None else known
        state = self.cache.state(user, sequence, known, erasures)
        np.testing.assert_array_equal(state.item_hash_L, sequence.item_hash[:known])
        np.testing.assert_array_equal(state.timestamp_L, sequence.timestamp[:known])
        return state

    def counted(self) -> dict[str, float]:
        samples = self.metrics.user_cache.collect()[0].samples
        return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}

    def bytes(self) -> float:
        return self.metrics.user_cache_bytes.collect()[0].samples[0].value


def test_a_smaller_limit_holds_at_once(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for user in "abc":
        cached.append(user, 0, 0)
        cached.read(user)
    held = int(cached.bytes())
    cached.cache.limit(held - 1)
    assert 0 < cached.bytes() < held and cached.bytes() == cached.cache.state_bytes()
    cached.read("c")
    assert cached.counted()["hit"] == 1, "the newest stay"


def test_hit_extended_prepared(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for time in range(5):
        cached.append("u", time, time)
        cached.read("u")
    assert cached.read("u") is cached.read("u")
    assert cached.counted() == {"prepared": 1, "extended": 4, "hit": 2}
    cached.append("u", 9, 2)
    cached.read("u")
    assert cached.counted()["prepared"] == 2, "a late behavior prepares the user anew"


def test_past_the_longest_history_the_newest_behavior_still_counts(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime, max_length=5)
    for time in range(12):
        cached.append("u", time, time)
        assert cached.read("u").timestamp_L[-1] == time
    assert cached.counted() == {"prepared": 1, "extended": 11}, "the oldest leave without a preparation"
    cached.append("u", 3, 8)
    cached.read("u")
    assert cached.counted()["prepared"] == 2, "a late behavior prepares the user anew"


def test_a_window_that_moved_on_by_more_than_is_held_is_prepared_anew(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime, max_length=40)
    for time in range(100):
        cached.append("u", time % 30, time)
        if time in (10, 99):
            cached.read("u")
    cached.append("u", 3, 100)
    cached.read("u", known=39)
    assert cached.counted() == {"prepared": 2, "extended": 1}
    assert cached.read("u", known=20).length == 20 and cached.read("u", known=0).length == 0
    cached.append("u", 4, 101)
    cached.read("u", known=39)
    assert cached.counted() == {"prepared": 4, "extended": 2}, "the newest stays held"


def test_an_extended_user_scores_as_a_prepared_one(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for time in range(40):
        cached.append("u", time % 7, 1_600_000_000 + time * 3600)
        extended = cached.read("u")
    prepared = runtime.prepare(extended.item_hash_L, extended.timestamp_L)
    now = 1_600_000_000 + 86_400 * 3
    np.testing.assert_allclose(
        runtime.score(extended, ITEM[:50], now).click_probability_N, runtime.score(prepared, ITEM[:50], now).click_probability_N, atol=1e-6
    )


def test_a_request_in_the_past_sees_its_past_and_takes_nothing_from_the_present(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for time in range(6):
        cached.append("u", time, time)
    whole = cached.read("u")
    assert cached.read("u", known=3).length == 3
    assert cached.read("u") is whole


def test_behaviors_ahead_of_the_clock_do_not_cost_a_preparation_each(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for time in range(6):
        cached.append("u", time, time)
    assert cached.read("u", known=5) is cached.read("u", known=5)
    assert cached.read("u").length == 6
    assert cached.counted() == {"prepared": 1, "hit": 1, "extended": 1}


def test_bytes_are_bounded_least_recently_used_out_first(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    for user in "abc":
        for time in range(20):
            cached.append(user, time, time)
    size = cached.read("a").nbytes
    tight = Cached(runtime, max_bytes=size * 2 + size // 2)
    tight.store = cached.store
    for user in ("a", "b", "a", "c", "a"):
        tight.read(user)
        assert tight.bytes() <= size * 2.5
    assert tight.counted() == {"prepared": 3, "hit": 2}, "b went, a stayed"
    none = Cached(runtime, max_bytes=0)
    none.store = cached.store
    none.read("a")
    assert none.bytes() == 0


def test_behaviors_that_a_server_lost_are_not_scored(runtime: ScoringRuntime) -> None:
    """A failed-over server came back without the newest three behaviors and with the same epoch; four others followed."""
    cached = Cached(runtime)
    for time in range(10):
        cached.append("u", time, time)
    whole = cached.store.read("u")
    cached.read("u")
    shorter = BehaviorSequence(whole.item_hash[:7], whole.timestamp[:7], whole.epoch)
    assert cached.cache.state("u", shorter, 7, 0).length == 7
    assert cached.cache.state("u", whole, 10, 0).length == 10
    others = np.concatenate([whole.item_hash[:7], ITEM[50:54]])
    replaced = BehaviorSequence(others, np.arange(11), whole.epoch)
    np.testing.assert_array_equal(cached.cache.state("u", replaced, 11, 0).item_hash_L, others)
    assert cached.cache.state("u", replaced, 11, 0) is cached.cache.state("u", replaced, 11, 0)


def test_an_erased_user_does_not_come_back_with_a_request_that_was_under_way(runtime: ScoringRuntime) -> None:
    cached = Cached(runtime)
    cached.append("u", 1, 1)
    erasures, sequence = cached.cache.erasures(), cached.store.read("u")
    cached.store.delete("u")
    cached.cache.forget("u")
    assert cached.cache.state("u", sequence, 1, erasures).length == 1
    assert cached.bytes() == 0
