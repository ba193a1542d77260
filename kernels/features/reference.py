"""The candidate features of one request, candidate by candidate: readable, and what the compiled ones are held against."""

from __future__ import annotations

import bisect
import math

import numpy as np
import numpy.typing as npt

from kernels.features.arguments import DAY_BITS, F32, F64, NUM_FEATURES, HistoryFacts, ItemFacts, KeyRecords

I32 = npt.NDArray[np.int32]
_DAY_S = 86_400.0


def can_run() -> tuple[bool, str]:
    """Always."""
    return True, "plain loops, for tests"


def features(history: HistoryFacts, items: ItemFacts, place_N: I32, item_N: I32, category_N: I32, now_s: int) -> F32:
    """See `kernels.candidate_features`."""
    rows = []
    user = _user(history, items, now_s)
    for place, item, category in zip(place_N.tolist(), item_N.tolist(), category_N.tolist(), strict=True):
        known = place if 0 <= place < len(items) else len(items)
        own, own_age = _relation(history.items, item, history, items.decay_days, now_s)
        kind, kind_age = _relation(history.categories, category, history, items.decay_days, now_s)
        statistic = items.statistic[known].astype(np.float64)
        cross = [
            0.0 if age is None else math.log((age + 0.5) / (math.expm1(statistic[column]) + 0.5))
            for age, column in zip((own_age, kind_age), items.interval_columns, strict=True)
        ]
        taste = [_cosine(profile, items.taste[known].astype(np.float64)) for profile in history.profile_ST]
        rows.append([*own, *kind, *user, *statistic, *cross, *taste, *_popularity(items, known, now_s)])
    return np.array(rows, dtype=np.float32).reshape(-1, NUM_FEATURES)


def _relation(records: KeyRecords, place: int, history: HistoryFacts, decay_days: F64, now_s: int) -> tuple[list[float], float | None]:
    """What the history says about one key, and its age in days (None: never seen)."""
    length = history.length
    share = math.log(0.5 / (length + 1))
    if place < 0:
        return [0.0] * 10 + [share], None
    count = float(records.count[place])
    age = max(now_s - float(records.newest_s[place]), 0.0) / _DAY_S
    interval = (float(records.newest_s[place]) - float(records.first_s[place])) / (count - 1) / _DAY_S if count > 1 else 0.0
    decayed = records.decayed[place] * np.exp(-age / decay_days)
    value = [
        1.0,
        math.log1p(count),
        math.log1p(age),
        math.log1p(max(length + history.first - float(records.position[place]) - 1, 0.0)),
        *np.log1p(decayed).tolist(),
        float(count > 1),
        math.log1p(interval),
        math.log((age + 0.5) / (interval + 0.5)) if count > 1 else 0.0,
        math.log((count + 0.5) / (length + 1)),
    ]
    return value, age


def _user(history: HistoryFacts, items: ItemFacts, now_s: int) -> list[float]:
    idle = max(now_s - history.newest_s, 0.0) / _DAY_S if history.length else 0.0
    activity = np.log1p(history.activity * np.exp(-idle / items.decay_days))
    return [math.log1p(history.length), math.log1p(idle), *activity[:2].tolist(), history.distinct / max(history.length, 1)]


def _cosine(profile: F64, vector: F64) -> float:
    norm = float(np.linalg.norm(profile) * np.linalg.norm(vector))
    return float(profile @ vector) / norm if norm > 1e-9 else 0.0


def _popularity(items: ItemFacts, known: int, now_s: int) -> list[float]:
    """Shares, days since the item was taken, and how often it was, counting only days before the request's own."""
    first, last = items.first_day, items.first_day + len(items.popularity_total)
    today = min(max(math.floor(now_s / _DAY_S), first), last)
    place = bisect.bisect_left(items.popularity_key, (known << DAY_BITS) + today) - 1
    day, count, decayed = first - 1, 0.0, np.zeros(len(items.popularity_days))
    if place >= 0 and int(items.popularity_key[place]) >> DAY_BITS == known:
        day = int(items.popularity_key[place]) & (1 << DAY_BITS) - 1
        count, decayed = float(items.popularity_count[place]), items.popularity_decayed[place].astype(np.float64)
    of_all = items.popularity_total[today - first - 1] if today > first else np.zeros(len(decayed))
    total = of_all * np.exp(-1.0 / items.popularity_days) / max(len(items), 1) + items.prior
    share = (decayed * np.exp(-(today - day) / items.popularity_days) + items.prior) / total
    return [*np.log(share).tolist(), math.log1p(today - day), math.log1p(count)]
