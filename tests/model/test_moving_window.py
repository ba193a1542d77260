"""A user whose oldest behaviors leave as new ones come is answered exactly as one prepared from nothing with those that are left."""

from __future__ import annotations

import numpy as np
import pytest

from kernels import lookup_rows
from model.growing_rows import GrowingRows
from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from model.user_state import UserState
from tests.conftest import Tiny


@pytest.fixture(scope="module")
def runtime(tiny: Tiny) -> ScoringRuntime:
    return ScoringRuntime.load(tiny.artifacts)


def assert_same_records(moved: UserState, anew: UserState, keys: tuple[np.ndarray, np.ndarray]) -> None:
    for grown, fresh, key in zip((moved.items, moved.categories), (anew.items, anew.categories), keys, strict=True):
        assert grown.distinct == fresh.distinct
        one, other = grown.lookup(key), fresh.lookup(key)
        for name in ("count", "first_s", "newest_s", "position"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)
        np.testing.assert_allclose(one.decayed, other.decayed, rtol=1e-12, atol=1e-12)


def assert_same_state(runtime: ScoringRuntime, moved: UserState, anew: UserState, candidates: np.ndarray, now: int) -> None:
    assert moved.length == anew.length
    for name in ("item_hash_L", "timestamp_L", "catalogue_L", "item_row_L", "category_row_L"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(anew, name))
    np.testing.assert_array_equal(moved.keys.key_LA, anew.keys.key_LA)
    assert_same_records(moved, anew, (candidates, runtime.catalogue.category[runtime.catalogue.places(candidates)]))
    for one, other in ((moved.activity, anew.activity), (moved.profile, anew.profile)):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)
    bonus, fresh = (state.occurrences.bonus(candidates, lookup_rows(candidates, state.occurrences.index), 1.0) for state in (moved, anew))
    np.testing.assert_array_equal(bonus.start_N1, fresh.start_N1)
    np.testing.assert_array_equal(bonus.index, fresh.index)
    scored, whole = (runtime.score(state, candidates, now, explain=runtime.max_kept) for state in (moved, anew))
    assert scored.kept is not None and whole.kept is not None
    np.testing.assert_array_equal(scored.kept.index_NE, whole.kept.index_NE)
    np.testing.assert_array_equal(scored.kept.score_NE, whole.kept.score_NE)
    np.testing.assert_array_equal(scored.click_probability_N, whole.click_probability_N)


@pytest.mark.parametrize(("cap", "steps", "most"), [(1500, 40, 60), (7, 60, 3), (1, 4, 1)])
def test_a_chain_of_appends_at_a_small_cap(tiny: Tiny, runtime: ScoringRuntime, cap: int, steps: int, most: int) -> None:
    rng = np.random.default_rng(cap)
    known = hash_item_ids([*tiny.log.item_id, "never heard of"])
    size = cap + steps * most
    # A few items make half of it, so that some leave for good and others stay.
    item_hash = np.where(rng.random(size) < 0.5, known[rng.integers(0, 5, size)], rng.choice(known, size))
    timestamp = runtime.as_of - 10**7 + np.cumsum(rng.choice([0, 60, 9000], size))
    candidates = np.unique(np.concatenate([known[:40], item_hash[:20], hash_item_ids(["no such item"])]))
    state, end = runtime.prepare(item_hash[: cap - cap // 20], timestamp[: cap - cap // 20]), cap - cap // 20
    for step in range(steps):
        new = int(rng.integers(0, most + 1))
        before, old = state, state.item_hash_L.copy()
        state, end = runtime.extend(state, item_hash[end : end + new], timestamp[end : end + new], cap), end + new
        np.testing.assert_array_equal(before.item_hash_L, old)
        if step % 5 == 0 or step == steps - 1:
            first = max(0, end - cap)
            anew = runtime.prepare(item_hash[first:end], timestamp[first:end])
            assert_same_state(runtime, state, anew, candidates, int(timestamp[end - 1]) + 5000)
    assert end > cap


def test_two_that_grew_from_one_keep_apart(tiny: Tiny, runtime: ScoringRuntime) -> None:
    known = hash_item_ids(tiny.log.item_id)
    time = np.arange(100) + runtime.as_of
    old = runtime.prepare(known[:50], time[:50])
    grown = [runtime.extend(old, known[first : first + 10], time[50:60], 55) for first in (50, 60)]
    for state, first in zip(grown, (50, 60), strict=True):
        anew = runtime.prepare(np.concatenate([known[5:50], known[first : first + 10]]), np.append(time[5:50], time[50:60]))
        assert_same_state(runtime, state, anew, known[:80], int(time[-1]))
    assert_same_state(runtime, old, runtime.prepare(known[:50], time[:50]), known[:80], int(time[-1]))


def test_rows_are_copied_only_when_there_is_no_room_or_another_took_it() -> None:
    rows = GrowingRows.of([np.arange(10), np.arange(20.0).reshape(10, 2)])
    first = rows.appended([np.array([10]), np.array([[20.0, 21.0]])], drop=3)
    other = rows.appended([np.array([77]), np.array([[7.0, 7.0]])])
    assert np.shares_memory(rows.column(1), first.column(1)) and not np.shares_memory(rows.column(0), other.column(0))
    assert first.column(0).tolist() == list(range(3, 11)) and other.column(0).tolist() == [*range(10), 77]
    assert rows.column(0).tolist() == list(range(10)) and len(first) == 8 and first.column(1)[-1].tolist() == [20.0, 21.0]
    while np.shares_memory(rows.column(0), first.column(0)):
        first = first.appended([np.array([5]), np.array([[1.0, 2.0]])])
    assert len(first) == 8 + 65 and first.column(0)[7:].tolist() == [10] + [5] * 65
