"""From an interaction log and its targets to what the model reads: table rows, candidate features, batches of users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from model.batch import UserBatch
from model.data.log import InteractionLog
from model.data.protocol import Targets, training_period_mask
from model.features import (
    FEATURE_NAMES,
    HistoryIndex,
    UserMoment,
    candidate_features,
    decayed_counts,
)
from model.statistics import item_statistics
from model.tables import FIRST_ROW, PADDING_ROW, UNKNOWN_ROW

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Table rows of items and categories. `item_row` int64 [items] and `category_row` int64 [items] (the item's category's row)."""

    item_row: I64
    category_row: I64
    num_items: int
    num_categories: int

    @classmethod
    def from_training_period(cls, log: InteractionLog, min_count: int) -> Vocabulary:
        """Items with at least `min_count` behaviors in the training period get a row of their own, all others the unknown row."""
        count = np.bincount(log.item[training_period_mask(log)], minlength=len(log.item_id))
        own = count >= min_count
        item_row = np.where(own, FIRST_ROW + np.cumsum(own) - 1, UNKNOWN_ROW)
        category_row = np.where(log.item_category >= 0, log.item_category + FIRST_ROW, UNKNOWN_ROW)
        num_categories = FIRST_ROW + len(log.category_id)
        return cls(item_row.astype(np.int64), category_row.astype(np.int64), FIRST_ROW + int(own.sum()), num_categories)


class FeatureSource:
    """Candidate features of any (user, moment, candidate) of one log, through the code that serving uses."""

    def __init__(self, log: InteractionLog) -> None:
        self._log = log
        self._category = np.where(log.item_category >= 0, log.item_category, len(log.category_id)).astype(np.int64)
        self._user = np.repeat(np.arange(len(log.user_start) - 1), np.diff(log.user_start))
        self._item_index = HistoryIndex(self._user, log.item.astype(np.int64), log.timestamp, log.user_start)
        self._category_index = HistoryIndex(self._user, self._category[log.item], log.timestamp, log.user_start)
        new_user = np.ones(len(self._user), dtype=bool)
        new_user[1:] = self._user[1:] != self._user[:-1]
        self._activity = decayed_counts(new_user, log.timestamp.astype(np.float64))

    def statistics(self, behaviors: npt.NDArray[np.bool_]) -> F32:
        """Frozen item statistics from the chosen behaviors (bool [E]): f32 [items, S]."""
        log = self._log
        item_category = log.item_category.astype(np.int64)
        return item_statistics(
            self._user[behaviors], log.item[behaviors].astype(np.int64), log.timestamp[behaviors], item_category, len(log.category_id)
        )

    def features(self, targets: Targets, chosen: npt.NDArray[np.intp], statistic: F32) -> F32:
        """Features of the targets `chosen` [T]: f32 [T, C, len(FEATURE_NAMES)]."""
        candidate = targets.candidate[chosen].astype(np.int64)
        num_candidates = candidate.shape[1]
        user = np.repeat(targets.user[chosen].astype(np.int64), num_candidates)
        end = np.repeat(targets.history_end[chosen], num_candidates)
        item = candidate.reshape(-1)
        length = end - self._log.user_start[user]
        newest = np.maximum(end - 1, 0)
        moment = UserMoment(
            length=length.astype(np.float64),
            now_s=np.repeat(targets.timestamp[chosen], num_candidates).astype(np.float64),
            newest_s=np.where(length > 0, self._log.timestamp[newest], 0).astype(np.float64),
            activity=np.where((length > 0)[:, None], self._activity[newest], 0.0),
            distinct=self._item_index.distinct(user, end),
        )
        value = candidate_features(
            self._item_index.records(user, item, end),
            self._category_index.records(user, self._category[item], end),
            moment,
            statistic[item],
        )
        return value.reshape(len(chosen), num_candidates, len(FEATURE_NAMES))

    def window_of(self, targets: Targets, edges: npt.NDArray[np.float64]) -> I64:
        """Window of each target by its place in its user's events: -1 before the first edge, then 0, 1, ..."""
        place = self._place()[targets.event]
        return np.searchsorted(edges, place, side="right") - 1

    def before(self, place: float) -> npt.NDArray[np.bool_]:
        """The behaviors in the first `place` (0..1) of their user's events: bool [E]."""
        return self._place() < place

    def _place(self) -> npt.NDArray[np.float64]:
        start = self._log.user_start[:-1]
        count = np.diff(self._log.user_start)
        place: npt.NDArray[np.float64] = (np.arange(len(self._user)) - start[self._user]) / count[self._user]
        return place


@dataclass(frozen=True, slots=True)
class Examples:
    """Targets of one split, ready for the model. `chosen` [T] rows of `targets`, `extra` f32 [T, C, E] (E 0 without features)."""

    targets: Targets
    chosen: npt.NDArray[np.intp]
    extra: F32

    def batch(self, log: InteractionLog, vocabulary: Vocabulary, rows: npt.NDArray[np.intp]) -> UserBatch:
        """One `UserBatch` of the given rows (of `chosen`), which all belong to one user."""
        picked = self.chosen[rows]
        user = int(self.targets.user[picked[0]])
        start, end = int(log.user_start[user]), int(self.targets.history_end[picked].max())
        item = log.item[start:end].astype(np.int64)
        candidate = self.targets.candidate[picked].astype(np.int64)
        if end == start:  # no behavior at all: one padding behavior that no target sees
            item_row, category_row, key = np.array([PADDING_ROW]), np.array([PADDING_ROW]), np.array([-1])
        else:
            item_row, category_row, key = vocabulary.item_row[item], vocabulary.category_row[item], item
        return UserBatch(
            item_L=torch.from_numpy(item_row),
            category_L=torch.from_numpy(category_row),
            item_key_L=torch.from_numpy(key),
            length_T=torch.from_numpy(self.targets.history_end[picked] - start),
            target_item_TC=torch.from_numpy(vocabulary.item_row[candidate]),
            target_category_TC=torch.from_numpy(vocabulary.category_row[candidate]),
            target_key_TC=torch.from_numpy(candidate),
            extra_TCE=torch.from_numpy(self.extra[rows]),
        )

    def labels(self, rows: npt.NDArray[np.intp]) -> F32:
        """Labels f32 [len(rows) * C] of the given rows."""
        return self.targets.label[self.chosen[rows]].reshape(-1)

    def chunks(self, size: int, rng: np.random.Generator | None) -> list[npt.NDArray[np.intp]]:
        """Rows grouped by user into chunks of at most `size` targets; shuffled within and between users when `rng` is given."""
        user = self.targets.user[self.chosen]
        noise = rng.random(len(user)) if rng is not None else np.zeros(len(user))
        order = np.lexsort((np.arange(len(user)), noise, user))
        bounds = np.flatnonzero(np.diff(user[order], prepend=-1, append=-1))
        groups = [
            np.sort(order[first : min(first + size, end)])
            for start, end in zip(bounds[:-1], bounds[1:], strict=True)
            for first in range(start, end, size)
        ]
        if rng is not None:
            groups = [groups[i] for i in rng.permutation(len(groups))]
        return groups


def steps(groups: list[npt.NDArray[np.intp]], targets_per_step: int) -> Iterator[list[npt.NDArray[np.intp]]]:
    """Consecutive chunks gathered into optimiser steps of about `targets_per_step` targets; the last may be smaller."""
    step: list[npt.NDArray[np.intp]] = []
    size = 0
    for group in groups:
        step.append(group)
        size += len(group)
        if size >= targets_per_step:
            yield step
            step, size = [], 0
    if step:
        yield step
