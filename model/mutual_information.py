"""What a behavior's category tells about the click, by its distance from the target: what search is judged by where relevance is unknown.

Source: the measure by which DARE (arXiv 2410.02604) and TIN (arXiv 2308.08487) compare attention with the data; equation in docs/model.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, Targets

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
_PAIRS = 40_000_000
"""Most (candidate, behavior) pairs that are counted: targets are drawn until they are used up."""
_BATCH = 4_000_000
_CHANCE = 10.83
"""2 n I of independent X and Y exceeds this once in a thousand (chi-squared, one degree of freedom): less is worth nothing."""
DISTANCES = 18
"""Distances 1, 2, 3-4, 5-8, ... up to 100,000 behaviors back."""


class InformationError(ValueError):
    """The data do not allow the measure; the message says why."""


def distance_of(recency: I64) -> I64:
    """Distance of each recency (1 = newest): 0 for 1, 1 for 2, 2 for 3 and 4, 3 for 5 to 8, ... at most DISTANCES - 1."""
    return np.minimum(np.ceil(np.log2(np.maximum(recency, 1))), DISTANCES - 1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class MutualInformation:
    """I(Y; X | c, p) in nats for every category c of a target, category b of a behavior and distance p that occurred together.

    Y is the label of a candidate of category c, X whether the behavior at a place of distance p has category b. `key` i64 ascending,
    `information` f64 of each; what never occurred together has none.
    """

    key: I64
    information: F64
    categories: int
    candidates: int

    @classmethod
    def fit(cls, log: InteractionLog, targets: Targets, seed: int = 0, pairs: int = _PAIRS) -> MutualInformation:
        """Count over the training targets, drawn with `seed` until their histories hold `pairs` (candidate, behavior) pairs.

        The plug-in estimate less its bias where X and Y are independent, 1 / (2 n), is taken, and 0 where independence would exceed it once
        in a thousand; n is the number of candidates of category c that have a behavior at distance p: behaviors near one another are
        alike and do not count apart.

        Raises: InformationError without categories, when training labels are all alike, and when nothing is informative about them.
        """
        if not (log.item_category >= 0).any():
            raise InformationError("no item has a category: the information between categories is not defined for these data")
        rng = np.random.default_rng(seed)
        row = rng.permutation(np.flatnonzero(targets.split == TRAIN))
        length = targets.history_end[row] - log.user_start[targets.user[row]]
        width = targets.candidate.shape[1]
        row = row[: max(1, int(np.searchsorted(np.cumsum(length) * width, pairs, side="right")))]
        row = row[np.argsort(targets.user[row], kind="stable")]
        if len(np.unique(targets.label[row])) < 2:
            raise InformationError("all training labels are alike: nothing can be informative about them")
        count = _Counts(len(log.category_id))
        for part in _batches(row, (targets.history_end - log.user_start[targets.user])[row] * width):
            count.add(log, targets, part)
        key, information = count.information()
        if len(key) == 0:
            raise InformationError(
                f"in {len(row) * width} training candidates no category before a candidate says more about its click than chance would: "
                "more data are needed, or categories say nothing here"
            )
        return cls(key, information, len(log.category_id), len(row) * width)

    def of(self, category_N: I64, category_L: I64) -> F64:
        """Information of every behavior (categories oldest first, the last at recency 1) for every target category: f64 [N, L]."""
        distance_L = distance_of(np.arange(len(category_L), 0, -1))
        key = _key(category_N[:, None], category_L[None], distance_L[None], self.categories)
        place = np.minimum(np.searchsorted(self.key, key), len(self.key) - 1)
        known = (self.key[place] == key) & (category_N[:, None] >= 0) & (category_L[None] >= 0)
        return np.where(known, self.information[place], 0.0)


def _key(target: I64, behavior: I64, distance: I64, categories: int) -> I64:
    return (target * categories + behavior) * DISTANCES + distance


def _batches(row: I64, size: I64) -> Iterator[I64]:
    batch = np.cumsum(size) // _BATCH
    for start in np.unique(batch):
        yield row[batch == start]


class _Counts:
    """Pairs by (target category, behavior category, distance) and label; places by (target category, distance) and label; candidates."""

    def __init__(self, categories: int) -> None:
        self._categories = categories
        self._key, self._pairs = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        self._places = np.zeros((categories, DISTANCES, 2), np.int64)
        self._candidates = np.zeros((categories, DISTANCES), np.int64)

    def add(self, log: InteractionLog, targets: Targets, row: I64) -> None:
        start = log.user_start[targets.user[row]]
        size = targets.history_end[row] - start
        owner = np.repeat(np.arange(len(row)), size)
        recency = np.repeat(np.cumsum(size), size) - np.arange(len(owner))
        behavior = log.item_category[log.item[np.repeat(targets.history_end[row], size) - recency]].astype(np.int64)
        distance = distance_of(recency)
        reach = np.zeros(len(row), np.int64)  # distances that a history of this length has a behavior at
        np.maximum.at(reach, owner, distance + 1)
        keys, labels = [], []
        for column in range(targets.candidate.shape[1]):
            category = log.item_category[targets.candidate[row, column]].astype(np.int64)
            label = (targets.label[row, column] > 0.5).astype(np.int64)
            some = category >= 0
            for place in range(DISTANCES):
                np.add.at(self._candidates, (category[some & (reach > place)], place), 1)
            usable = some[owner]
            np.add.at(self._places, (category[owner][usable], distance[usable], label[owner][usable]), 1)
            usable &= behavior >= 0
            keys.append(_key(category[owner][usable], behavior[usable], distance[usable], self._categories))
            labels.append(label[owner][usable])
        key, inverse = np.unique(np.concatenate([self._key, *keys]), return_inverse=True)
        total = np.zeros((len(key), 2), np.int64)
        total[inverse[: len(self._key)]] = self._pairs
        np.add.at(total, (inverse[len(self._key) :], np.concatenate(labels)), 1)
        self._key, self._pairs = key, total

    def information(self) -> tuple[I64, F64]:
        target, distance = self._key // (DISTANCES * self._categories), self._key % DISTANCES
        with_b = self._pairs.astype(np.float64)
        joint = np.stack([self._places[target, distance] - with_b, with_b], axis=1)  # [X, Y]
        joint /= joint.sum(axis=(1, 2), keepdims=True)
        apart = joint.sum(axis=2, keepdims=True) * joint.sum(axis=1, keepdims=True)
        plain = (joint * np.log(np.where(joint > 0, joint, 1.0) / np.where(joint > 0, apart, 1.0))).sum(axis=(1, 2))
        n = self._candidates[target, distance]
        telling = 2 * n * plain > _CHANCE
        return self._key[telling], (plain - 0.5 / n)[telling]


@dataclass(frozen=True, slots=True)
class Informed:
    """Test candidates with the mutual information of every behavior before them, in the shape that `model.search_quality` judges search by.

    `user`, `position` (behaviors before it), `item`, `timestamp` i64 [n], `label` f64 [n]; sorted by (user, position).
    """

    log: InteractionLog
    information: MutualInformation
    user: I64
    position: I64
    item: I64
    timestamp: I64
    label: F64

    @classmethod
    def read(cls, log: InteractionLog, targets: Targets, information: MutualInformation, most: int, seed: int = 0) -> Informed:
        """The candidates of at most `most` test targets, drawn with `seed`."""
        row = np.flatnonzero(targets.split == TEST)
        row = np.sort(np.random.default_rng(seed).permutation(row)[:most])
        row = row[np.lexsort((targets.history_end[row], targets.user[row]))]
        width = targets.candidate.shape[1]
        user = np.repeat(targets.user[row], width)
        return cls(
            log=log,
            information=information,
            user=user,
            position=np.repeat(targets.history_end[row], width) - log.user_start[user],
            item=targets.candidate[row].reshape(-1).astype(np.int64),
            timestamp=np.repeat(targets.timestamp[row], width),
            label=targets.label[row].reshape(-1).astype(np.float64),
        )

    def dense(self, rows: slice) -> F64:
        """Information of every behavior before the moment: f64 [candidates, position]."""
        start = self.log.user_start[self.user[rows.start]]
        category = self.log.item_category[self.log.item[start : start + self.position[rows.start]]].astype(np.int64)
        return self.information.of(self.log.item_category[self.item[rows]].astype(np.int64), category)
