"""Frozen item statistics: popularity, repeat rate and repurchase interval of each item and category, from a given set of behaviors.

Rates are shares of all behaviors, so that statistics of windows of different sizes are comparable. "The last 30 days" are counted
back from each user's own last behavior in the set: histories are cut per user, not at one moment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from model.features import DAY_S, ITEM_STATISTICS

_PRIOR = 10.0
"""Weight, in behaviors, of the category's rate in an item's, and of the global rate in a category's."""


def _shrunk_mean(
    total: npt.NDArray[np.float64], count: npt.NDArray[np.float64], prior: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float64]:
    mean: npt.NDArray[np.float64] = (total + _PRIOR * prior) / (count + _PRIOR)
    return mean


def item_statistics(
    user: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    time_s: npt.NDArray[np.int64],
    item_category: npt.NDArray[np.int64],
    num_categories: int,
) -> npt.NDArray[np.float32]:
    """Statistics of every item of the catalogue from the given behaviors.

    Args:
        user, item, time_s: int64 [E], sorted by (user, time).
        item_category: int64 [I], category code of each item, -1 for none.
        num_categories: number of category codes.
    Returns: f32 [I, len(ITEM_STATISTICS)], finite, columns in the order of `ITEM_STATISTICS`.
    """
    num_items = len(item_category)
    bucket = np.where(item_category >= 0, item_category, num_categories)
    cut_s = np.zeros(int(user.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(cut_s, user, time_s)
    age_days = (cut_s[user] - time_s) / DAY_S if len(user) else np.zeros(0)

    def by_item(weight: npt.NDArray[np.float64] | None = None, of: npt.NDArray[np.int64] = item) -> npt.NDArray[np.float64]:
        return np.bincount(of, weight, minlength=num_items).astype(np.float64)

    def by_category(value: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.bincount(bucket, value, minlength=num_categories + 1).astype(np.float64)

    def log_share(count: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        share: npt.NDArray[np.float64] = np.log((count + 0.5) / (count.sum() + 0.5 * len(count))) + np.log(len(count))
        return share

    order = np.lexsort((np.arange(len(item)), item, user))
    again = (user[order][1:] == user[order][:-1]) & (item[order][1:] == item[order][:-1])
    gap = np.log1p(np.diff(time_s[order])[again] / DAY_S)
    repeat_item = item[order][1:][again]

    count, repeats, interval = by_item(), by_item(None, repeat_item), by_item(gap, repeat_item)
    category_count, category_repeats, category_interval = by_category(count), by_category(repeats), by_category(interval)
    all_rate = repeats.sum() / max(count.sum(), 1.0)
    all_interval = interval.sum() / max(repeats.sum(), 1.0)
    category_rate = _shrunk_mean(category_repeats, category_count, all_rate)[bucket]
    category_gap = _shrunk_mean(category_interval, category_repeats, all_interval)[bucket]
    columns = [
        log_share(count),
        log_share(by_item(np.exp(-age_days / 30.0))),
        log_share(by_item(np.exp(-age_days / 7.0))),
        _shrunk_mean(repeats, count, category_rate),
        np.log1p((count - repeats) / max(float((count - repeats).sum()), 1.0) * 1e5),
        _shrunk_mean(interval, repeats, category_gap),
        log_share(category_count)[bucket],
        category_rate,
        category_gap,
    ]
    if len(columns) != len(ITEM_STATISTICS):
        raise AssertionError("columns and ITEM_STATISTICS differ")
    return np.stack(columns, axis=1).astype(np.float32)
