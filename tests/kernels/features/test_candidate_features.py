"""The compiled candidate features equal the loops: any history and items, unseen and unknown candidates, odd sizes, every level."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kernels import candidate_features, features_backends, native_library
from kernels.features import HistoryFacts, KeyRecords
from tests.kernels.features.made import NOW, compare, facts, history, records

NATIVE = pytest.mark.skipif(not features_backends()["native"][0], reason=features_backends()["native"][1])


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
    nobody = HistoryFacts(records(rng, 0, 0), records(rng, 0, 0), 0, 0.0, np.zeros(3), np.zeros((3, 5)), distinct=0)
    for items in (0, 1, 17):
        compare(rng, nobody, facts(rng, items, 5), 40, NOW)


def test_known_values() -> None:
    one = KeyRecords(*(np.array([value]) for value in (2.0, NOW - 4 * 86_400.0, NOW - 2 * 86_400.0, 6.0)), np.array([[2.0, 2.0, 2.0]]))
    profile = np.array([[3.0, 4.0], [0.0, 0.0], [-3.0, -4.0]])
    user = HistoryFacts(one, one, 9, NOW - 86_400.0, np.array([9.0, 9.0, 9.0]), profile, distinct=1)
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
    with pytest.raises(ValueError, match=r"popularity_key must have fewer than 2\^31 keys, got 2147483648"):
        replace(items, popularity_key=np.broadcast_to(np.int64(0), 2**31))
