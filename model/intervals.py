"""How far a difference of two models is chance: a paired bootstrap over users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model.metrics import auc
from model.outcome import Outcome

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all rows and the bounds between which 95 % of the resamples fall: NaN where one user, or one class, is all there is."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """A difference with its bounds, signed."""
        if math.isnan(self.low):
            return "-" if math.isnan(self.value) else f"{self.value:+.4f} (one user: no interval)"
        return f"{self.value:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def mean_auc(seeds: Sequence[Outcome], resamples: int = 400, seed: int = 0) -> Interval:
    """AUC of one model, mean over its seeds; each resample draws whole users, the same for every seed."""
    return _mean([(one.label, one.probability, None, one.user) for one in seeds], resamples, seed)


def mean_auc_difference(first: Sequence[Outcome], second: Sequence[Outcome], resamples: int = 400, seed: int = 0) -> Interval:
    """AUC of a model minus that of another, mean over seeds; pair i was tested on the same rows.

    Raises: ValueError when the numbers of seeds or the rows of a pair differ.
    """
    rows = []
    for one, other in zip(first, second, strict=True):
        if not (np.array_equal(one.user, other.user) and np.array_equal(one.label, other.label)):
            raise ValueError(f"models of a pair must be tested on the same rows; theirs differ: {len(one.label)} and {len(other.label)}")
        rows.append((one.label, one.probability, other.probability, one.user))
    return _mean(rows, resamples, seed)


def _mean(rows: list[tuple[Any, Any, Any, Any]], resamples: int, seed: int) -> Interval:
    users = 1 + max(int(user.max()) for *_, user in rows)
    present = np.zeros(users, dtype=bool)
    for *_, user in rows:
        present[user] = True
    number = np.cumsum(present) - 1
    count = int(present.sum())
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    value, resampled = 0.0, np.zeros(resamples)
    for label, score, other, user in rows:
        value += auc(label, score) / len(rows)
        resampled += _weighted_auc(label > 0.5, score, number[user], draws) / len(rows)
        if other is not None:
            value -= auc(label, other) / len(rows)
            resampled -= _weighted_auc(label > 0.5, other, number[user], draws) / len(rows)
    some = count > 1 and not math.isnan(value)
    low, high = np.quantile(resampled, [0.025, 0.975]) if some else (math.nan, math.nan)
    return Interval(float(value), float(low), float(high))


def _weighted_auc(
    positive_M: npt.NDArray[np.bool_], score_M: npt.NDArray[np.floating], user_M: npt.NDArray[np.integer], draws: npt.NDArray[np.integer]
) -> F64:
    order = np.argsort(score_M, kind="stable")
    positive, user = positive_M[order], user_M[order]
    _, group = np.unique(score_M[order], return_inverse=True)
    found = np.empty(len(draws))
    for i, times in enumerate(draws):
        weight = times[user].astype(np.float64)
        below = np.bincount(group, weight * ~positive)
        ranked = np.cumsum(below) - below / 2  # the weight of negatives below each distinct score, ties counted half
        found[i] = (np.bincount(group, weight * positive) @ ranked) / max(weight[positive].sum() * weight[~positive].sum(), 1e-9)
    return found
