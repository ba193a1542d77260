"""Keys that occur again and again share slots of the filter, and every row of them is found as fp32 over all rows finds it: bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import ItemBonus, SearchKeys, search_topk
from kernels.search import native_backend
from tests.kernels.search.test_growing_keys import assert_equal_to_fresh
from tests.kernels.search.test_native_bound import assert_filter_finds_what_fp32_finds

WIDTH, TARGETS, LENGTH = 20, 24, 3000


def history(
    items: int, length: int = LENGTH, width: int = WIDTH, seed: int = 0
) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """A generator, targets, the keys of a history in which few of the items are popular, and the item of each row."""
    rng = np.random.default_rng(0)
    share = 1 / (1 + np.arange(items))
    item = rng.choice(items, length, p=share / share.sum())
    table = rng.standard_normal((items, width)).astype(np.float32)
    return rng, rng.standard_normal((TARGETS, width)).astype(np.float32), table[item], item


def named(rows_of_each: list[np.ndarray], value: float) -> ItemBonus:
    start = np.append(0, np.cumsum([len(rows) for rows in rows_of_each])).astype(np.int64)
    return ItemBonus(start, np.concatenate(rows_of_each).astype(np.int32), value)


def by_place(length: int, steps: int = 12) -> np.ndarray:
    """A bias that many neighbors share, higher for the newest, as that of a recency bucket."""
    return np.repeat(np.linspace(-2, 0, steps), -(-length // steps))[:length].astype(np.float32)


@pytest.mark.parametrize(("items", "kept"), [(1, 20), (3, 1), (40, 75), (400, 20), (3000, 50)])
def test_any_number_of_distinct_keys(level: int, items: int, kept: int) -> None:
    rng, target, key, _ = history(items)
    keys = SearchKeys(key)
    for bias in (None, by_place(LENGTH), rng.standard_normal(LENGTH).astype(np.float32), np.full(LENGTH, 7, np.float32)):
        assert_filter_finds_what_fp32_finds(level, target, keys, kept, bias_L=bias)
    assert_filter_finds_what_fp32_finds(level, target, keys, kept, valid_L=rng.random(LENGTH) < 0.3, bias_L=by_place(LENGTH))


@pytest.mark.parametrize("width", [1, 7, 32, 65])
def test_any_width(level: int, width: int) -> None:
    _, target, key, _ = history(300, width=width)
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), 20, bias_L=by_place(LENGTH))


@pytest.mark.parametrize("items", [5, 300])
@pytest.mark.parametrize("value", [-4.0, -0.01, 0.01, 4.0])
def test_a_bonus_on_all_rows_of_an_item_or_on_some(level: int, items: int, value: float) -> None:
    rng, target, key, item = history(items)
    keys = SearchKeys(key)
    every = [np.flatnonzero(item == item[rng.integers(LENGTH)]) for _ in range(TARGETS)]
    some = [rows[rng.random(len(rows)) < 0.5] for rows in every]
    twice = [np.concatenate([rows, rows[::3]]) for rows in every]
    for rows in (every, some, twice):
        for bias in (None, by_place(LENGTH)):
            assert_filter_finds_what_fp32_finds(level, target, keys, 20, bias_L=bias, bonus=named(rows, value))


def test_of_rows_that_are_equal_in_all_the_newest_come_first(level: int) -> None:
    _, target, key, item = history(30)
    keys = SearchKeys(key)
    assert native_backend.prepare(keys) is not None
    index, score = search_topk(target, keys, 50, backend="native")
    order = np.argsort(-(target.astype(np.float64) @ key.astype(np.float64)[::-1].T), axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(index, LENGTH - 1 - order)
    assert all(len(np.unique(item[row])) < 50 for row in index) and (np.diff(score, axis=1) <= 0).all()


def test_a_window_of_repeated_keys_that_moves_on(level: int) -> None:
    rng, target, rows, item = history(250, length=3500)
    keys, first, end = SearchKeys(rows[:1800]), 0, 1800
    while end + 300 < len(rows):
        new = int(rng.choice([3, 130, 300]))
        drop = max(0, end + new - first - 2000)
        keys, first, end = keys.append(rows[end : end + new], drop=drop), first + drop, end + new
        own = [np.flatnonzero(item[first:end] == one) for one in rng.choice(250, TARGETS)]
        bias, valid = by_place(end - first), rng.random(end - first) < 0.9
        assert_equal_to_fresh(level, keys, rows[first:end], target)
        for value in (-3.0, 3.0):
            assert_equal_to_fresh(level, keys, rows[first:end], target, bias_L=bias, valid_L=valid, bonus=named(own, value))


@pytest.mark.parametrize("size", [1e-42, 1e-25, 1e17])
def test_outliers_and_extreme_values_that_repeat(level: int, size: float) -> None:
    rng, target, key, item = history(200)
    for one in (7, 60, 150):
        key[item == one] *= 50
    keys = SearchKeys(key * np.float32(size))
    assert_filter_finds_what_fp32_finds(level, target, keys, 20)
    assert_filter_finds_what_fp32_finds(level, target, keys, 20, bias_L=(size * rng.standard_normal(LENGTH)).astype(np.float32))


def test_sums_beyond_float32(level: int) -> None:
    _, target, key, _ = history(20)
    bias = np.linspace(-3e38, -2e38, LENGTH, dtype=np.float32)
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), 20, bias_L=bias)


def test_keys_that_differ_in_the_sign_of_a_zero_are_not_equal_but_tie(level: int) -> None:
    rng, target, key, _ = history(200)
    key[:, 0] = np.where(rng.random(LENGTH) < 0.5, np.float32(-0.0), np.float32(0.0))
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(key), 20)
    zero = np.where(rng.random((LENGTH, WIDTH)) < 0.5, np.float32(-0.0), np.float32(0.0))
    zero[::2] = 0
    assert_filter_finds_what_fp32_finds(level, target, SearchKeys(zero), 20, bias_L=np.zeros(LENGTH, np.float32))


def test_equal_keys_of_different_categories_are_told_apart(level: int) -> None:
    rng, target, key, _ = history(100)
    category = rng.integers(0, 9, LENGTH).astype(np.int32)
    score = rng.standard_normal((TARGETS, 9)).astype(np.float32)
    keys = SearchKeys(key, category)
    assert_filter_finds_what_fp32_finds(level, target, keys, 20, category_score_NC=score, bias_L=by_place(LENGTH))


def test_what_is_prepared_grows_with_distinct_keys(level: int) -> None:
    def prepared_bytes(key_LA: np.ndarray) -> int:
        keys = SearchKeys(key_LA)
        before = keys.nbytes
        prepared = native_backend.prepare(keys)
        assert prepared is not None and keys.nbytes <= 1.02 * before
        return prepared.nbytes

    few, some = (prepared_bytes(history(items, length=16_000, width=32)[2]) for items in (10, 5000))
    all_distinct = prepared_bytes(np.random.default_rng(0).standard_normal((16_000, 32)).astype(np.float32))
    assert few < 0.5 * all_distinct and some < 0.7 * all_distinct


def test_threads_give_the_same_answer(level: int) -> None:
    _, target, key, item = history(500, length=9000, width=32)
    keys, targets = SearchKeys(key), np.tile(target, (20, 1))
    native_backend.prepare(keys)
    bonus = named([np.flatnonzero(item == one)[:9] for one in range(len(targets))], 1.5)
    given: dict[str, Any] = {"bias_L": by_place(9000), "bonus": bonus, "backend": "native"}
    one, two = (search_topk(targets, keys, 50, num_threads=threads, **given) for threads in (1, 2))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
