"""The `counts` baseline: logistic regression on whole-history counts, trained and tested on the very rows of the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, ProtocolConfig, Targets, split_targets, training_period_mask
from model.history_index import HistoryIndex
from model.metrics import evaluate
from model.outcome import Outcome

_MAX_TRAIN_ROWS = 600_000
_STEPS = 4


def counts_baseline(
    log: InteractionLog,
    config: ProtocolConfig,
    longest: int | None = None,
    seed: int = 0,
    min_item_count: int = 5,
    targets: Targets | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """The baseline, fitted and tested on the protocol's rows.

    Inputs: whether the user has taken the item, log counts of the item and its category in the history, log shares of the item and its
    category in the training period, log history length. Where there are more than 600,000 training rows, a seeded sample of targets is
    used. `longest` cuts histories to their newest behaviors; `min_item_count` is the model's, for the figure on warm items; `targets` in
    place of the protocol's drawn ones; `progress` is told how many steps of how many are done.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if targets is None:
        targets = split_targets(log, config)
    known = training_period_mask(log, config)
    inputs = _inputs(log, targets, known, longest)
    progress(1, _STEPS)
    train, test = np.flatnonzero(targets.split == TRAIN), np.flatnonzero(targets.split == TEST)
    most = _MAX_TRAIN_ROWS // targets.candidate.shape[1]
    if len(train) > most:
        train = np.sort(np.random.default_rng(seed).choice(train, most, replace=False))
    scaler = StandardScaler()
    model = LogisticRegression(C=1.0, max_iter=500)
    fitted = scaler.fit_transform(inputs(train))
    progress(2, _STEPS)
    model.fit(fitted, targets.label[train].reshape(-1) > 0.5)
    progress(3, _STEPS)
    tested = inputs(test)
    progress(_STEPS, _STEPS)
    probability = model.predict_proba(scaler.transform(tested))[:, 1]
    warm = np.bincount(log.item[known], minlength=len(log.item_id))[targets.candidate[test].reshape(-1)] >= min_item_count
    who = np.repeat(targets.user[test], targets.candidate.shape[1])
    label = targets.label[test].reshape(-1)
    figures = evaluate(label, probability, who, tested[:, 0] == 0, warm)
    return Outcome(figures, probability.astype(np.float32), label, who)


def _inputs(
    log: InteractionLog, targets: Targets, known: npt.NDArray[np.bool_], longest: int | None
) -> Callable[[npt.NDArray[np.intp]], npt.NDArray[np.float64]]:
    """A function from rows of `targets` to the inputs f64 [rows * C, 6]; shares are those of the behaviors `known`."""
    category = np.where(log.item_category >= 0, log.item_category, len(log.category_id)).astype(np.int64)
    user = log.user_of_behavior()
    items = HistoryIndex(user, log.item.astype(np.int64), log.timestamp, log.user_start)
    categories = HistoryIndex(user, category[log.item], log.timestamp, log.user_start)
    item_share = np.log((np.bincount(log.item[known], minlength=len(log.item_id)) + 0.5) / known.sum())
    category_share = np.log((np.bincount(category[log.item[known]], minlength=len(log.category_id) + 1) + 0.5) / known.sum())

    def inputs(rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        candidates = targets.candidate.shape[1]
        item = targets.candidate[rows].astype(np.int64).reshape(-1)
        who, end = np.repeat(targets.user[rows], candidates), np.repeat(targets.history_end[rows], candidates)
        start = log.user_start[who] if longest is None else np.maximum(log.user_start[who], end - longest)
        item_count = items.records(who, item, start, end).count
        category_count = categories.records(who, category[item], start, end).count
        columns = [
            item_count > 0,
            np.log1p(item_count),
            np.log1p(category_count),
            item_share[item],
            category_share[category[item]],
            np.log1p(end - start),
        ]
        return np.stack([column.astype(np.float64) for column in columns], axis=1)

    return inputs
