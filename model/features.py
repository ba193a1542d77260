"""Candidate features: what softmax attention discards (counts, ages, intervals) and the frozen state of the world.

`KeyRecord` holds what is known about one (user, key) pair at one moment, where a key is
an item or a category; `candidate_features` turns records and item statistics into the extra inputs of the head. Training reads
records at many moments of a user's history through `model.history_index`; serving keeps only the newest record of each key in
`RecordTable`, and computes the same features in `kernels.features` where the compiled library runs. Parity tests hold all of these
together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

DAY_S = 86_400.0
DECAY_DAYS = np.array([7.0, 30.0, 120.0])
"""Time constants of the exponentially decayed counts, in days."""

RELATION_FEATURES = (
    "seen",
    "log_count",
    "log_age_days",
    "log_behaviors_since",
    *(f"log_decayed_count_{int(days)}d" for days in DECAY_DAYS),
    "repeated",
    "log_mean_interval_days",
    "log_age_over_interval",
    "log_share",
)
USER_FEATURES = ("log_length", "log_idle_days", "log_activity_7d", "log_activity_30d", "distinct_share")
ITEM_STATISTICS = (
    "log_share",
    "log_share_30d",
    "log_share_7d",
    "repeat_rate",
    "log_buyers",
    "log_interval_days",
    "log_category_share",
    "category_repeat_rate",
    "category_log_interval_days",
)
CROSS_FEATURES = ("log_age_over_item_interval", "log_age_over_category_interval")
TASTE_SPANS = (None, 200, 20)
"""Newest behaviors that each taste profile covers; None is the whole history."""
TASTE_FEATURES = tuple(f"cosine_{span or 'whole'}" for span in TASTE_SPANS)
POPULARITY_DAYS = (7.0, 30.0, 90.0)
"""Time constants of an item's decayed popularity, in days."""
POPULARITY_FEATURES = (*(f"log_share_{int(days)}d_now" for days in POPULARITY_DAYS), "log_days_since_taken", "log_count_so_far")
FEATURE_NAMES = (
    *(f"item_{name}" for name in RELATION_FEATURES),
    *(f"category_{name}" for name in RELATION_FEATURES),
    *(f"user_{name}" for name in USER_FEATURES),
    *(f"statistic_{name}" for name in ITEM_STATISTICS),
    *CROSS_FEATURES,
    *(f"taste_{name}" for name in TASTE_FEATURES),
    *(f"popularity_{name}" for name in POPULARITY_FEATURES),
)
_OF_CATEGORY = ("statistic_log_category_share", "statistic_category_repeat_rate", "statistic_category_log_interval_days", CROSS_FEATURES[1])
FEATURE_RUNS = (
    tuple(FEATURE_NAMES.index(f"item_{name}") for name in RELATION_FEATURES),
    tuple(FEATURE_NAMES.index(name) for name in (*(f"category_{name}" for name in RELATION_FEATURES), *_OF_CATEGORY)),
    tuple(FEATURE_NAMES.index(f"user_{name}") for name in USER_FEATURES),
)
"""Places in `FEATURE_NAMES` of those that are the same for many candidates of a request: about the item those never taken share theirs,
about the category those of a category, about the user all."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a history says about M keys, at the moment of each key's newest behavior (count 0: never seen, the rest 0).

    `count` f64 [M]; `first_s`, `newest_s` f64 [M] unix seconds; `position` f64 [M], 0-based place of the newest behavior in the
    user's sequence; `decayed` f64 [M, len(DECAY_DAYS)], decayed count as of `newest_s`.
    """

    count: F64
    first_s: F64
    newest_s: F64
    position: F64
    decayed: F64

    def at(self, index: npt.NDArray[np.intp]) -> KeyRecord:
        """Rows `index` [M] of the record; -1 gives a never-seen record."""
        seen = index >= 0
        safe = np.where(seen, index, 0)
        if len(self.count) == 0:
            return empty_record(len(index))
        return KeyRecord(
            self.count[safe] * seen,
            self.first_s[safe] * seen,
            self.newest_s[safe] * seen,
            self.position[safe] * seen,
            self.decayed[safe] * seen[:, None],
        )


def empty_record(size: int) -> KeyRecord:
    """`size` records of keys never seen."""
    return KeyRecord(np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size), np.zeros((size, len(DECAY_DAYS))))


@dataclass(frozen=True, slots=True)
class UserMoment:
    """The user's side of M requests: `length` f64 [M] behaviors so far, `now_s` f64 [M] request time, `newest_s` f64 [M] time of the
    newest behavior, `activity` f64 [M, len(DECAY_DAYS)] decayed number of behaviors as of `newest_s`, `distinct` f64 [M] distinct items."""

    length: F64
    now_s: F64
    newest_s: F64
    activity: F64
    distinct: F64


def _relation(record: KeyRecord, moment: UserMoment) -> list[F64]:
    seen = record.count > 0
    age_days = np.where(seen, np.maximum(moment.now_s - record.newest_s, 0.0), 0.0) / DAY_S
    repeated = record.count > 1.5
    interval_days = np.where(repeated, (record.newest_s - record.first_s) / np.maximum(record.count - 1, 1), 0.0) / DAY_S
    decayed = record.decayed * np.exp(-age_days[:, None] / DECAY_DAYS)
    return [
        seen.astype(np.float64),
        np.log1p(record.count),
        np.log1p(age_days),
        np.where(seen, np.log1p(np.maximum(moment.length - record.position - 1, 0.0)), 0.0),
        *np.log1p(decayed).T,
        repeated.astype(np.float64),
        np.log1p(interval_days),
        np.where(repeated, np.log((age_days + 0.5) / (interval_days + 0.5)), 0.0),
        np.log((record.count + 0.5) / (moment.length + 1.0)),
    ]


def taste_cosines(profile_TSD: F64, vector_TCD: F32) -> F64:
    """Cosines of C candidates' taste vectors with S profiles of their user, at T moments: f64 [T, C, S], 0 where either is empty."""
    dot_TCS = vector_TCD.astype(np.float64) @ profile_TSD.transpose(0, 2, 1)
    norm_TCS = np.linalg.norm(vector_TCD, axis=2)[:, :, None] * np.linalg.norm(profile_TSD, axis=2)[:, None, :]
    cosine: F64 = np.where(norm_TCS > 1e-9, dot_TCS / np.maximum(norm_TCS, 1e-9), 0.0)
    return cosine


def candidate_features(item: KeyRecord, category: KeyRecord, moment: UserMoment, statistic: F32, taste: F64, popularity: F64) -> F32:
    """The head's extra inputs for M (user, candidate) rows.

    Args:
        item, category: records [M] of the candidate's own item and category in the user's history.
        moment: the user's side of each row [M].
        statistic: f32 [M, len(ITEM_STATISTICS)], the candidate's frozen statistics.
        taste: f64 [M, len(TASTE_FEATURES)], from `taste_cosines`.
        popularity: f64 [M, len(POPULARITY_FEATURES)], the candidate's at the moment, from `model.popularity`.
    Returns: f32 [M, len(FEATURE_NAMES)], finite, in the order of `FEATURE_NAMES`.
    """
    idle_days = np.where(moment.length > 0, np.maximum(moment.now_s - moment.newest_s, 0.0), 0.0) / DAY_S
    activity = np.log1p(moment.activity * np.exp(-idle_days[:, None] / DECAY_DAYS))
    columns = _relation(item, moment) + _relation(category, moment)
    columns += [
        np.log1p(moment.length),
        np.log1p(idle_days),
        activity[:, 0],
        activity[:, 1],
        moment.distinct / np.maximum(moment.length, 1.0),
    ]
    columns += list(statistic.T.astype(np.float64))
    typical = {name: statistic[:, ITEM_STATISTICS.index(name)] for name in ("log_interval_days", "category_log_interval_days")}
    for record, name in ((item, "log_interval_days"), (category, "category_log_interval_days")):
        age_days = np.maximum(moment.now_s - record.newest_s, 0.0) / DAY_S
        columns.append(np.where(record.count > 0, np.log((age_days + 0.5) / (np.expm1(typical[name]) + 0.5)), 0.0))
    columns += [*taste.T, *popularity.T]
    return np.stack(columns, axis=1).astype(np.float32)


def decayed_counts(run_start: npt.NDArray[np.bool_], time_s: F64, decay_days: F64 = DECAY_DAYS, amount: F64 | None = None) -> F64:
    """Decayed count after each behavior of consecutive runs: D_i = a_i + D_{i-1} exp(-(t_i - t_{i-1}) / tau), restarting at each run.

    Args: `run_start` bool [M], `time_s` f64 [M] ascending within a run, `decay_days` the taus, `amount` f64 [M] the a_i, 1 where not given.
    Returns: f64 [M, len(decay_days)].
    """
    size = len(time_s)
    value = np.ones((size, len(decay_days))) if amount is None else np.repeat(amount[:, None], len(decay_days), axis=1)
    if size == 0:
        return value
    start = np.flatnonzero(run_start)
    length = np.diff(np.append(start, size))
    by_length = np.argsort(-length, kind="stable")
    start, length = start[by_length], length[by_length]
    active = len(start)
    for rank in range(1, int(length[0])):
        active = int(np.searchsorted(-length[:active], -rank, side="left"))
        row = start[:active] + rank
        gap_days = (time_s[row] - time_s[row - 1]) / DAY_S
        value[row] += value[row - 1] * np.exp(-gap_days[:, None] / decay_days)
    return value
