"""The compiled candidate features equal the loops: any history and items, unseen and unknown candidates, odd sizes, every level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import candidate_features, features_backends, native_library
from kernels.features import NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords

NOW = 1_600_000_000
NATIVE = pytest.mark.skipif(not features_backends()["native"][0], reason=features_backends()["native"][1])


def records(rng: np.random.Generator, size: int, length: int) -> KeyRecords:
    count = rng.choice([1.0, 1.0, 2.0, 7.0, 5000.0], size)
    newest = NOW - rng.choice([-5000.0, 0.0, 60.0, 86_400.0, 3e7, 1.5e9], size)
    first = np.where(count > 1, newest - rng.choice([0.0, 3600.0, 4e7], size), newest)
    return KeyRecords(
        count, first, newest, rng.integers(0, max(length, 1), size).astype(np.float64), rng.random((size, 3)) * count[:, None]
    )


def facts(rng: np.random.Generator, size: int, width: int, days: int = 30) -> ItemFacts:
    taken = np.sort(rng.choice(size * days, min(size * days, 4 * size), replace=False)) if size else np.zeros(0, np.int64)
    first_day = NOW // 86_400 - 20
    key = (taken // days << 16) + first_day + taken % days
    taste = rng.normal(size=(size + 1, width)).astype(np.float32)
    taste[size // 2] = 0
    return ItemFacts(
        statistic=rng.normal(size=(size + 1, 9)).astype(np.float32) ** 2,
        interval_columns=(5, 8),
        taste=taste,
        popularity_key=key.astype(np.int64),
        popularity_count=rng.integers(1, 1000, len(key)).astype(np.float32),
        popularity_decayed=rng.random((len(key), 3)).astype(np.float32),
        popularity_total=rng.random((days if size else 0, 3)).astype(np.float32) * size,
        first_day=first_day,
        popularity_days=np.array([7.0, 30.0, 90.0]),
        decay_days=np.array([7.0, 30.0, 120.0]),
        prior=0.2,
    )


def history(rng: np.random.Generator, width: int, length: int = 500, items: int = 40, categories: int = 7) -> HistoryFacts:
    profile = rng.normal(size=(3, width))
    profile[2] = 0
    sides = records(rng, items, length), records(rng, categories, length)
    return HistoryFacts(*sides, length, float(NOW - 1000), rng.random(3) * 9, profile)


def chosen(rng: np.random.Generator, size: int, of: int) -> np.ndarray:
    return rng.integers(-1, of, size).astype(np.int32)


def compare(rng: np.random.Generator, user: HistoryFacts, items: ItemFacts, size: int, now_s: int) -> None:
    places = chosen(rng, size, len(items) + 3), chosen(rng, size, len(user.items)), chosen(rng, size, len(user.categories))
    expected = candidate_features(user, items, *places, now_s, backend="reference")
    found = candidate_features(user, items, *places, now_s, backend="native")
    assert found.shape == (size, NUM_FEATURES) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)


@NATIVE
@pytest.mark.parametrize("level", list(native_library.LEVELS))
@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 200])
def test_every_level_and_size_equals_the_loops(level: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_library.LEVEL_VARIABLE, level)
    if not features_backends()["native"][0]:
        pytest.skip(features_backends()["native"][1])
    rng = np.random.default_rng(size)
    for width in (1, 8, 13, 64):
        compare(rng, history(rng, width), facts(rng, 100, width), size, NOW)


@NATIVE
@pytest.mark.parametrize("now_s", [0, 1, NOW - 90 * 86_400, NOW - 86_400, NOW + 86_399, NOW + 900 * 86_400, 2**32 - 1, 2**40])
def test_any_time_even_before_the_history(now_s: int) -> None:
    rng = np.random.default_rng(1)
    compare(rng, history(rng, 5), facts(rng, 50, 5), 60, now_s)


@NATIVE
def test_no_history_and_no_items() -> None:
    rng = np.random.default_rng(2)
    nobody = HistoryFacts(records(rng, 0, 0), records(rng, 0, 0), 0, 0.0, np.zeros(3), np.zeros((3, 5)))
    for items in (0, 1, 17):
        compare(rng, nobody, facts(rng, items, 5), 40, NOW)


def test_known_values() -> None:
    one = KeyRecords(*(np.array([value]) for value in (2.0, NOW - 4 * 86_400.0, NOW - 2 * 86_400.0, 6.0)), np.array([[2.0, 2.0, 2.0]]))
    user = HistoryFacts(one, one, 9, NOW - 86_400.0, np.array([9.0, 9.0, 9.0]), np.array([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]]))
    items = replace(
        facts(np.random.default_rng(0), 1, 2), taste=np.array([[6, 8], [0, 0]], np.float32), statistic=np.zeros((2, 9), np.float32)
    )
    place = np.zeros(1, np.int32)
    for backend, (able, _) in features_backends().items():
        if able:
            value = candidate_features(user, items, place, place, place, NOW, backend=backend)[0]
            relation = [
                1,
                np.log(3),
                np.log(3),
                np.log(3),
                *np.log1p(2 * np.exp(-2 / np.array([7, 30, 120]))),
                1,
                np.log(3),
                0,
                np.log(0.25),
            ]
            np.testing.assert_allclose(value[:11], relation, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(value[11:22], relation, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(value[22:24], [np.log(10), np.log(2)], rtol=1e-6)
            np.testing.assert_allclose(value[36:41], [np.log(2.5 / 0.5), np.log(2.5 / 0.5), 1, 0, -1], rtol=1e-6)


def test_what_does_not_fit_is_refused_by_name() -> None:
    rng = np.random.default_rng(3)
    user, items, place = history(rng, 5), facts(rng, 50, 5), np.zeros(2, np.int32)
    refused = [
        ("item_N", (place, place + 40, place)),
        ("category_N", (place, place, place - 2)),
        ("place_N", (place.astype(np.int64), place, place)),
        ("item_N", (place, place[:1], place)),
    ]
    for name, places in refused:
        with pytest.raises(ValueError, match=name):
            candidate_features(user, items, *places, NOW)
    with pytest.raises(ValueError, match="now_s"):
        candidate_features(user, items, place, place, place, -1)
    with pytest.raises(ValueError, match="profile_ST"):
        candidate_features(history(rng, 6), items, place, place, place, NOW)
    with pytest.raises(ValueError, match="backend"):
        candidate_features(user, items, place, place, place, NOW, backend="best")
    with pytest.raises(ValueError, match="popularity_key"):
        replace(items, popularity_key=items.popularity_key + (100 << 16))
