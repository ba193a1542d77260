"""Quality of click probabilities: ranking, calibration, and never-seen candidates apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_BINS = 20


def auc(label: npt.NDArray[np.floating], score: npt.NDArray[np.floating]) -> float:
    """Area under the ROC curve with ties counted half, of labels and scores [M]; NaN when one class is absent."""
    positive = label > 0.5
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[inverse]
    return float((rank[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def gauc(label: npt.NDArray[np.floating], score: npt.NDArray[np.floating], user: npt.NDArray[np.integer]) -> float:
    """AUC within each user, weighted by the user's rows, of labels, scores and users [M]; users with one class only are left out, NaN where
    none is left."""
    order = np.argsort(user, kind="stable")
    bounds = np.flatnonzero(np.diff(user[order], prepend=user.min() - 1, append=user.max() + 1))
    total = weight = 0.0
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        rows = order[first:last]
        value = auc(label[rows], score[rows])
        if not np.isnan(value):
            total += value * len(rows)
            weight += len(rows)
    return total / weight if weight else float("nan")


def log_loss(label: npt.NDArray[np.floating], probability: npt.NDArray[np.floating]) -> float:
    """Mean negative log likelihood, natural logarithm, of labels and probabilities [M], which are clipped to 1e-7."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))


def expected_calibration_error(label: npt.NDArray[np.floating], probability: npt.NDArray[np.floating]) -> float:
    """Mean |observed rate - mean probability| over 20 bins of equally many rows, of labels and probabilities [M]."""
    parts = np.array_split(np.argsort(probability, kind="stable"), _BINS)
    gaps = [abs(float(label[part].mean()) - float(probability[part].mean())) * len(part) for part in parts if len(part)]
    return float(sum(gaps) / len(label))


def without_nan(value: Any) -> Any:
    """Plain values with None in place of each figure that does not exist (NaN): JSON has no word for it."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def evaluate(
    label: npt.NDArray[np.floating],
    probability: npt.NDArray[np.floating],
    user: npt.NDArray[np.integer],
    never_seen: npt.NDArray[np.bool_],
    warm: npt.NDArray[np.bool_],
) -> dict[str, float | int]:
    """All figures of M scored rows; an AUC of rows that are all of one class, or of none, is NaN.

    Args: `label`, `probability` [M]; `user` [M]; `never_seen` bool [M], candidate not in the user's history; `warm` bool [M], candidate has
    its own row (was sold often enough in the training period).
    """
    return {
        "auc": auc(label, probability),
        "gauc": gauc(label, probability, user),
        "log_loss": log_loss(label, probability),
        "ece": expected_calibration_error(label, probability),
        "auc_never_seen": auc(label[never_seen], probability[never_seen]),
        "auc_warm": auc(label[warm], probability[warm]),
        "num_test": int((label > 0.5).sum()),
        "num_rows": len(label),
    }
