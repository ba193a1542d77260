"""Candidate features of any (user, moment, candidate) of one log, through the same `candidate_features` that serving uses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.data.log import InteractionLog
from model.data.protocol import Targets
from model.features import (
    DAY_S,
    DECAY_DAYS,
    FEATURE_NAMES,
    TASTE_SPANS,
    UserMoment,
    candidate_features,
    decayed_counts,
    taste_cosines,
)
from model.history_index import HistoryIndex
from model.popularity import PopularityClock
from model.recency import MAX_LENGTH
from model.statistics import item_statistics
from model.taste import TasteTable, fit_taste

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
_ROWS = 1_500
"""Targets at a time: few enough for the cumulative profiles of their users to stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class FrozenWorld:
    """What a set of behaviors says about items: `statistic` f32 [I + 1, S] (row I: an item nobody knows), taste vectors, popularity at any
    moment."""

    statistic: F32
    taste: TasteTable
    popularity: PopularityClock


class FeatureSource:
    """Features over one log; `longest` hides all but the newest behaviors of a history (None: the 100,000 that serving reads)."""

    def __init__(self, log: InteractionLog, longest: int | None = None, taste_width: int = 64, seed: int = 0) -> None:
        self._log = log
        self._longest = min(longest or MAX_LENGTH, MAX_LENGTH)
        self._taste_width = taste_width
        self._seed = seed
        self._category = np.where(log.item_category >= 0, log.item_category, len(log.category_id)).astype(np.int64)
        self._user = log.user_of_behavior()
        self._item = log.item.astype(np.int64)
        self._items = HistoryIndex(self._user, self._item, log.timestamp, log.user_start)
        self._categories = HistoryIndex(self._user, self._category[log.item], log.timestamp, log.user_start)
        new_user = np.ones(len(self._user), dtype=bool)
        new_user[1:] = self._user[1:] != self._user[:-1]
        self._activity = decayed_counts(new_user, log.timestamp.astype(np.float64))

    def world(self, known: npt.NDArray[np.bool_]) -> FrozenWorld:
        """The world as the chosen behaviors (bool [E]) show it."""
        user, item = self._user[known], self._item[known]
        categories = np.append(self._log.item_category, -1).astype(np.int64)
        statistic = item_statistics(user, item, self._log.timestamp[known], categories, len(self._log.category_id))
        num_items = len(self._log.item_id)
        popularity = PopularityClock.build(item, self._log.timestamp[known], num_items)
        return FrozenWorld(statistic, fit_taste(user, item, num_items, self._taste_width, self._seed), popularity)

    def features(self, targets: Targets, chosen: npt.NDArray[np.intp], world: FrozenWorld) -> F32:
        """Features of the targets `chosen` [T]: f32 [T, C, len(FEATURE_NAMES)]."""
        candidates = targets.candidate.shape[1]
        value = np.empty((len(chosen), candidates, len(FEATURE_NAMES)), dtype=np.float32)
        order = np.lexsort((targets.history_end[chosen], targets.user[chosen]))
        for first in range(0, len(chosen), _ROWS):
            place = order[first : first + _ROWS]
            value[place] = self._block(targets, chosen[place], world).reshape(len(place), candidates, -1)
        return value

    def _block(self, targets: Targets, chosen: npt.NDArray[np.intp], world: FrozenWorld) -> F32:
        candidate = targets.candidate[chosen].astype(np.int64)
        candidates = candidate.shape[1]
        end_T = targets.history_end[chosen]
        user_T = targets.user[chosen]
        start_T = np.maximum(self._log.user_start[user_T], end_T - self._longest)
        taste_MS = self._taste(start_T, end_T, candidate, world.taste)
        user, start, end = (np.repeat(value, candidates) for value in (user_T, start_T, end_T))
        item, now = candidate.reshape(-1), np.repeat(targets.timestamp[chosen], candidates)
        moment = UserMoment(
            length=(end - start).astype(np.float64),
            now_s=now.astype(np.float64),
            newest_s=np.where(end > start, self._log.timestamp[np.maximum(end - 1, 0)], 0).astype(np.float64),
            activity=self._activity_between(user, start, end),
            distinct=self._items.distinct(start, end),
        )
        return candidate_features(
            self._items.records(user, item, start, end),
            self._categories.records(user, self._category[item], start, end),
            moment,
            world.statistic[item],
            taste_MS,
            world.popularity.at(item, now),
        )

    def _activity_between(self, user: I64, start: I64, end: I64) -> F64:
        newest, before = np.maximum(end - 1, 0), np.maximum(start - 1, 0)
        gap_days = (self._log.timestamp[newest] - self._log.timestamp[before]) / DAY_S
        cut = start > self._log.user_start[user]
        hidden = self._activity[before] * np.exp(-np.where(cut, gap_days, 0.0)[:, None] / DECAY_DAYS) * cut[:, None]
        activity: F64 = np.maximum(self._activity[newest] - hidden, 0.0) * (end > start)[:, None]
        return activity

    def _taste(self, start: I64, end: I64, candidate: I64, taste: TasteTable) -> F64:
        """Cosines with the profiles of each target's history: f64 [T * C, spans]. The rows come sorted by (user, end)."""
        first, last = int(start.min()), int(end.max())
        item = self._log.item[first:last]
        weighted = taste.vector[item] * taste.weight[item][:, None]
        total = np.zeros((last - first + 1, weighted.shape[1]))
        total[1:] = np.cumsum(weighted.T.astype(np.float64, order="C"), axis=1).T  # along the inner axis: half the time of the outer one
        profiles = []
        for span in TASTE_SPANS:
            begin = start if span is None else np.maximum(start, end - span)
            profiles.append(total[end - first] - total[begin - first])
        return taste_cosines(np.stack(profiles, axis=1), taste.vector[candidate]).reshape(-1, len(TASTE_SPANS))
