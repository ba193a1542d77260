"""Interaction logs small enough to check by eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.data.log import InteractionLog


def small_log(
    users: Sequence[Sequence[tuple[int, int, int]]], category: Sequence[int] = (), num_items: int = 0, num_categories: int = 0
) -> InteractionLog:
    """A log from each user's behaviors (item, timestamp, session), oldest first; `category` of each item, -1 for none."""
    flat = [behavior for behaviors in users for behavior in behaviors]
    owner = np.repeat(np.arange(len(users)), [len(behaviors) for behaviors in users])
    items = max([num_items, len(category), *(item + 1 for item, _, _ in flat)])
    _, session = np.unique(np.stack([owner, [session for _, _, session in flat]], axis=1), axis=0, return_inverse=True)
    kinds = list(category) + [-1] * (items - len(category))
    return InteractionLog(
        user_id=[f"u{u}" for u in range(len(users))],
        item_id=[f"i{i}" for i in range(items)],
        category_id=[f"c{c}" for c in range(max([num_categories, *(c + 1 for c in kinds)]))],
        user_start=np.concatenate([[0], np.cumsum([len(behaviors) for behaviors in users])]).astype(np.int64),
        item=np.array([item for item, _, _ in flat], dtype=np.int32),
        timestamp=np.array([time for _, time, _ in flat], dtype=np.int64),
        session=session.reshape(-1).astype(np.int64),
        item_category=np.array(kinds, dtype=np.int32),
        item_text={},
    )


def random_log(seed: int, users: int = 8, items: int = 40, categories: int = 5, shortest: int = 60, longest: int = 160) -> InteractionLog:
    """Users with baskets that share a second, sessions of several seconds, repeats, and items without category."""
    rng = np.random.default_rng(seed)
    histories = []
    for _ in range(users):
        length = int(rng.integers(shortest, longest + 1))
        own = rng.integers(0, items, 12)
        item = np.where(rng.random(length) < 0.6, rng.choice(own, length), rng.integers(0, items, length))
        time = 1_000_000 + np.cumsum(rng.integers(0, 3, length) * rng.integers(0, 90_000, length))
        session = np.cumsum(rng.random(length) < 0.4)
        histories.append([(int(i), int(t), int(s)) for i, t, s in zip(item, time, session, strict=True)])
    category = np.where(rng.random(items) < 0.9, rng.integers(0, categories, items), -1)
    return small_log(histories, category.tolist(), items, categories)
