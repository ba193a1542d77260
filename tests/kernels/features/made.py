"""Made-up histories and items for the candidate features."""

from __future__ import annotations

import numpy as np

from kernels import candidate_features
from kernels.features import NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords

NOW = 1_600_000_000


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
    return HistoryFacts(*sides, length, float(NOW - 1000), rng.random(3) * 9, profile, distinct=max(0, items - 3), first=length // 5)


def chosen(rng: np.random.Generator, size: int, of: int) -> np.ndarray:
    return rng.integers(-1, of, size).astype(np.int32)


def compare(rng: np.random.Generator, user: HistoryFacts, items: ItemFacts, size: int, now_s: int) -> None:
    """Fails where the compiled features of `size` drawn candidates are not those of the loops."""
    places = chosen(rng, size, len(items) + 3), chosen(rng, size, len(user.items)), chosen(rng, size, len(user.categories))
    expected = candidate_features(user, items, *places, now_s, backend="reference")
    found = candidate_features(user, items, *places, now_s, backend="native")
    assert found.shape == (size, NUM_FEATURES) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7)
