"""Keys that grow at one end and lose behaviors at the other answer, at every step, as keys prepared from nothing do: bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, native_library
from kernels.search import native_backend
from kernels.search.arguments import checked

WIDTH, TARGETS, KEPT = 20, 24, 20


def assert_equal_to_fresh(level: int, keys: SearchKeys, key_LA: np.ndarray, target: np.ndarray, **given: Any) -> None:
    library, _ = native_library.library()
    core = native_backend.prepare(keys)
    assert library is not None and core is not None
    np.testing.assert_array_equal(keys.key_LA, key_LA)
    fresh = SearchKeys(key_LA, keys.category_L)
    names = ("bias_L", "valid_L", "category_L", "category_score_NC", "bonus")
    grown, anew = (checked(target, of, KEPT, *(given.get(name) for name in names), 1) for of in (keys, fresh))
    found = native_backend.run(grown, core, library, level)
    for other in (native_backend.run(grown, None, library, level), native_backend.run(anew, native_backend.prepare(fresh), library, level)):
        np.testing.assert_array_equal(found[0], other[0])
        np.testing.assert_array_equal(found[1], other[1])


def given(rng: np.random.Generator, length: int, plain: bool) -> dict[str, Any]:
    """A position bias, rows that are not valid, and a bonus on any rows, the oldest and the newest among them; or nothing of it."""
    if plain:
        return {}
    named = np.stack([np.zeros(TARGETS), np.full(TARGETS, length - 1), rng.integers(0, length, TARGETS)], axis=1).astype(np.int32)
    bonus = ItemBonus(np.arange(TARGETS + 1, dtype=np.int64) * 3, named.ravel(), float(rng.choice([-1.0, 2.0])))
    return {"bias_L": rng.standard_normal(length).astype(np.float32), "valid_L": rng.random(length) < 0.9, "bonus": bonus}


@pytest.mark.parametrize("plain", [False, True])
def test_a_window_that_moves_on(level: int, plain: bool) -> None:
    rng, length = np.random.default_rng(0), 1500
    rows, target = (rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (6000, TARGETS))
    keys, first, end, bodies = SearchKeys(rows[:1200]), 0, 1200, set[int]()
    while end + 400 < len(rows):
        new = int(rng.choice([1, 7, 130, 300]))
        drop = max(0, end + new - first - length)
        keys, first, end = keys.append(rows[end : end + new], drop=drop), first + drop, end + new
        assert_equal_to_fresh(level, keys, rows[first:end], target, **given(rng, end - first, plain))
        prepared = keys.prepared_now
        assert prepared is not None and keys.dropped + keys.length - prepared.end < 256
        bodies.add(id(prepared.body))
    assert 5 <= len(bodies) <= 16, "a body is shared by some forms, and left when it is full"


def test_rows_that_the_scales_cannot_hold_are_found(level: int) -> None:
    # One row in thirty is too long for the scales, in one dimension or in all; one in a hundred is not far from overflowing.
    rng = np.random.default_rng(1)
    rows, target = (rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (12_000, TARGETS))
    rows[10_000::30, 3] *= 9
    rows[10_010::60] *= 3
    rows[10_007::900] *= 1e17
    keys = SearchKeys(rows[:10_000])
    before = native_backend.prepare(keys)
    assert before is not None
    for end in range(10_256, 11_300, 256):
        keys = keys.append(rows[keys.length : end])
        assert_equal_to_fresh(level, keys, rows[:end], target)
    assert keys.prepared_now is not None and keys.prepared_now.body is before.body
    # A block of such rows alone: the keys are prepared anew once enough have gathered.
    keys = keys.append((1 + np.abs(rows[keys.length : 11_900])) * 100)
    assert_equal_to_fresh(level, keys, keys.key_LA.copy(), target)
    assert keys.prepared_now.body is not before.body


@pytest.mark.parametrize("tiny", [0.0, 1e-42, 1e-25])
def test_scales_of_denormal_rows_do_not_take_others_in(level: int, tiny: float) -> None:
    rng = np.random.default_rng(2)
    rows, target = (rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (3000, TARGETS))
    rows[:1500] *= np.float32(tiny)
    rows[2200:2700] *= np.float32(1e-42)
    keys = SearchKeys(rows[:1500])
    native_backend.prepare(keys)
    for end in (1600, 1800, 2100, 2700, 3000):
        keys = keys.append(rows[keys.length : end])
        assert_equal_to_fresh(level, keys, rows[:end], target)


def test_categories_of_behaviors_that_left_need_no_score(level: int) -> None:
    rng = np.random.default_rng(3)
    rows, target = (rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (4000, TARGETS))
    category = np.arange(4000, dtype=np.int32) % 5
    category[:300] = 900
    keys = SearchKeys(rows[:3000], category[:3000])
    native_backend.prepare(keys)
    for first, end in ((100, 3100), (400, 3300), (600, 3900)):
        drop = first - keys.dropped
        keys = keys.append(rows[keys.dropped + keys.length : end], category[keys.dropped + keys.length : end], drop)
        np.testing.assert_array_equal(keys.category_L, category[first:end])
        score = rng.standard_normal((TARGETS, int(category[first:end].max()) + 1)).astype(np.float32)
        assert_equal_to_fresh(level, keys, rows[first:end], target, category_score_NC=score)


def test_both_of_two_that_grew_from_one_are_right_and_the_old_one_stays(level: int) -> None:
    rng = np.random.default_rng(4)
    rows, target = (rng.standard_normal((size, WIDTH)).astype(np.float32) for size in (3000, TARGETS))
    other = rng.standard_normal((300, WIDTH)).astype(np.float32)
    old = SearchKeys(rows[:2000])
    native_backend.prepare(old)
    with ThreadPoolExecutor(4) as pool:
        grown = list(pool.map(old.append, [rows[2000:2300], other] * 4))
        list(pool.map(native_backend.prepare, grown))
    assert len({id(keys.prepared_now.body) for keys in grown if keys.prepared_now is not None}) > 1
    for keys, new in zip(grown, [rows[2000:2300], other] * 4, strict=True):
        assert_equal_to_fresh(level, keys, np.concatenate([rows[:2000], new]), target)
    assert_equal_to_fresh(level, old, rows[:2000], target)


def test_more_cannot_be_dropped_than_there_is() -> None:
    keys = SearchKeys(np.ones((3, 2), np.float32))
    assert keys.append(np.ones((1, 2), np.float32), drop=3).length == 1
    with pytest.raises(ValueError, match=r"drop must be in 0\.\.3, got 4"):
        keys.append(np.ones((1, 2), np.float32), drop=4)
