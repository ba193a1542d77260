"""How far a difference of two models is chance: a paired bootstrap over users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.metrics import auc

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value on all rows and the bounds between which 95 % of the resamples fall."""

    value: float
    low: float
    high: float


def auc_difference(
    label_M: npt.NDArray[np.floating],
    score_M: npt.NDArray[np.floating],
    other_M: npt.NDArray[np.floating],
    user_M: npt.NDArray[np.integer],
    resamples: int = 400,
    seed: int = 0,
) -> Interval:
    """AUC of `score_M` minus AUC of `other_M` on the same rows; each resample draws whole users, with replacement.

    Args: `label_M` 0 or 1, both present; `user_M` the user of each row.
    Raises: ValueError when only one class is present.
    """
    value = auc(label_M, score_M) - auc(label_M, other_M)
    if np.isnan(value):
        raise ValueError(f"an AUC needs both classes, all {len(label_M)} labels are equal")
    _, user_M = np.unique(user_M, return_inverse=True)
    users = int(user_M.max()) + 1
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(users, np.full(users, 1 / users), size=resamples)
    first, second = (_weighted_auc(label_M > 0.5, of_M, user_M, draws) for of_M in (score_M, other_M))
    low, high = np.quantile(first - second, [0.025, 0.975])
    return Interval(value, float(low), float(high))


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
