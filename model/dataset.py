"""From an interaction log and its targets to what the model reads: table rows, candidate features, batches of users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from model.batch import UserBatch
from model.config import TrainConfig
from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, VALIDATION, ProtocolConfig, Targets, place_of_behavior, split_targets, training_period_mask
from model.feature_source import FeatureSource, FrozenWorld
from model.features import FEATURE_NAMES
from model.popularity import PopularityClock
from model.tables_layout import FIRST_ROW, PADDING_ROW, UNKNOWN_ROW

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
_FIRST_WINDOW = 0.1
"""Training targets in the first tenth of a user's behaviors are left out: there is no world before them to take statistics from."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Table rows of items and categories. `item_row` int64 [items] and `category_row` int64 [items] (the item's category's row)."""

    item_row: I64
    category_row: I64
    num_items: int
    num_categories: int

    @classmethod
    def from_training_period(cls, log: InteractionLog, min_count: int, protocol: ProtocolConfig) -> Vocabulary:
        """Items with at least `min_count` behaviors in the training period get a row of their own, all others the unknown row; a
        category needs one behavior."""
        known = log.item[training_period_mask(log, protocol)]
        own = np.bincount(known, minlength=len(log.item_id)) >= min_count
        item_row = np.where(own, FIRST_ROW + np.cumsum(own) - 1, UNKNOWN_ROW)
        category = np.where(log.item_category >= 0, log.item_category, len(log.category_id))
        own_category = np.bincount(category[known], minlength=len(log.category_id) + 1) > 0
        own_category[-1] = False
        row_of_category = np.where(own_category, FIRST_ROW + np.cumsum(own_category) - 1, UNKNOWN_ROW)
        return cls(
            item_row.astype(np.int64),
            row_of_category[category].astype(np.int64),
            FIRST_ROW + int(own.sum()),
            FIRST_ROW + int(own_category.sum()),
        )


@dataclass(frozen=True, slots=True)
class Examples:
    """Targets of one split, ready for the model.

    `chosen` [T] rows of `targets`; `extra` f32 [T, C, E] (E 0 without features); `never_seen` bool [T, C]: the candidate is not in the
    user's history; `longest` as in the model's config.
    """

    targets: Targets
    chosen: npt.NDArray[np.intp]
    extra: F32
    never_seen: npt.NDArray[np.bool_]
    longest: int | None

    def batch(self, log: InteractionLog, vocabulary: Vocabulary, rows: npt.NDArray[np.intp]) -> UserBatch:
        """One `UserBatch` of the given rows (of `chosen`), which all belong to one user."""
        picked = self.chosen[rows]
        start, end = self._window(log, picked)
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
            time_L=torch.from_numpy(log.timestamp[start : max(end, start + 1)]),
            time_T=torch.from_numpy(self.targets.timestamp[picked]),
        )

    def _window(self, log: InteractionLog, picked: npt.NDArray[np.intp]) -> tuple[int, int]:
        """First and end of the behaviors that targets of one user read."""
        start, end = int(log.user_start[self.targets.user[picked[0]]]), int(self.targets.history_end[picked].max())
        if self.longest is not None:  # nothing older than the longest history of the oldest target is ever read
            start = max(start, int(self.targets.history_end[picked].min()) - self.longest)
        return start, end

    def work(self, log: InteractionLog, rows: npt.NDArray[np.intp]) -> int:
        """What the time of a batch of the given rows grows with: behaviors read, times targets."""
        start, end = self._window(log, self.chosen[rows])
        return len(rows) * (end - start)

    def labels(self, rows: npt.NDArray[np.intp]) -> F32:
        """Labels f32 [len(rows) * C] of the given rows."""
        return self.targets.label[self.chosen[rows]].reshape(-1)

    def chunks(self, size: int, rng: np.random.Generator | None) -> list[npt.NDArray[np.intp]]:
        """Rows grouped by user into chunks of at most `size` targets; the chunks come in random order when `rng` is given.

        A chunk holds targets that follow one another in time: their histories end near each other, so little of what one target's search
        reads is hidden from another.
        """
        user = self.targets.user[self.chosen]
        order = np.lexsort((self.targets.behavior[self.chosen], user))
        bounds = np.flatnonzero(np.diff(user[order], prepend=-1, append=-1))
        groups = [part for start, end in zip(bounds[:-1], bounds[1:], strict=True) for part in _parts(order[start:end], size)]
        if rng is not None:
            groups = [groups[i] for i in rng.permutation(len(groups))]
        return groups


def _parts(rows: npt.NDArray[np.intp], size: int) -> list[npt.NDArray[np.intp]]:
    return np.array_split(rows, -(-len(rows) // size))


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


@dataclass(frozen=True, slots=True)
class Dataset:
    """Everything training needs of one log: the three splits, the vocabulary and the world at the end of the training period."""

    log: InteractionLog
    vocabulary: Vocabulary
    world: FrozenWorld
    train: Examples
    validation: Examples
    test: Examples


def prepare(
    log: InteractionLog, config: TrainConfig, progress: Callable[[str], None] = lambda text: None, targets: Targets | None = None
) -> Dataset:
    """Targets, vocabulary and features of one log, deterministic for a config. `targets` in place of the protocol's drawn ones.

    The world of a training row (item statistics, taste vectors) comes from the behaviors before the window its target lies in, so that no
    target is inside its own statistics; validation and test rows take it from the whole training period.

    Raises: ValueError as `split_targets`, and where training or validation rows have no two labels.
    """
    if targets is None:
        targets = split_targets(log, config.protocol)
    known = training_period_mask(log, config.protocol)
    source = FeatureSource(log, config.model.longest, config.taste_width, config.seed)
    place = place_of_behavior(log, config.protocol)
    progress("statistics of the training period")
    live = PopularityClock.build(log.item.astype(np.int64), log.timestamp, len(log.item_id)) if config.statistics == "live" else None

    def world_of(seen: npt.NDArray[np.bool_]) -> FrozenWorld:
        world = source.world(seen)
        return world if live is None else replace(world, popularity=live)

    world = world_of(known)
    chosen = np.flatnonzero(targets.split == TRAIN)
    edges = np.linspace(_FIRST_WINDOW, config.protocol.train_share, config.statistic_windows + 1)[:-1]
    window = np.searchsorted(edges, place[targets.behavior[chosen]], side="right") - 1
    chosen, window = chosen[window >= 0], window[window >= 0]
    extra = np.empty((len(chosen), targets.candidate.shape[1], len(FEATURE_NAMES)), dtype=np.float32)
    for which, edge in enumerate(edges):
        progress(f"features of window {which + 1} of {len(edges)}")
        rows = np.flatnonzero(window == which)
        extra[rows] = source.features(targets, chosen[rows], world_of(place < edge))

    def examples(rows: npt.NDArray[np.intp], value: F32) -> Examples:
        never_seen = value[:, :, FEATURE_NAMES.index("item_seen")] == 0
        value = value if config.model.features else value[:, :, :0].copy()
        return Examples(targets, rows, value, never_seen, config.model.longest)

    train = examples(chosen, extra)
    progress("features of the validation and test rows")
    later = {which: np.flatnonzero(targets.split == which) for which in (VALIDATION, TEST)}
    validation, test = (examples(rows, source.features(targets, rows, world)) for rows in later.values())
    for name, part in (("training", train), ("validation", validation)):
        _check_labels(name, part.labels(np.arange(len(part.chosen))))
    return Dataset(log, Vocabulary.from_training_period(log, config.min_item_count, config.protocol), world, train, validation, test)


def _check_labels(name: str, label: F32) -> None:
    if len(label) == 0:
        raise ValueError(
            f"no {name} target is left: all lie in the first {_FIRST_WINDOW:.0%} of their user's behaviors, before any statistics"
        )
    if (label == label[0]).all():
        raise ValueError(f"all {len(label)} {name} rows have label {label[0]:.0f}: there is nothing to tell apart")
