"""How often retrieval's pool holds what the user takes next: what ranking can at best put first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from model.data.log import InteractionLog
from model.data.protocol import TEST, split_targets
from model.evaluate import train_config
from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from model.tables_layout import FIRST_ROW


def pool_recall(
    runtime: ScoringRuntime,
    log: InteractionLog,
    pools: Sequence[int],
    *,
    most: int = 3000,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Share of test targets whose item is in the pool retrieved from the history before its session.

    Args: `pools` sizes; `most` targets, drawn without replacement by `seed`; `report` is called with (targets done, targets in all).
    Returns: `num_targets`; per size a list with the recall over all of them, over those whose item the user had taken before, over the
    items new to the user, and over the items that the model knows. NaN where there is none.
    """
    targets = split_targets(log, train_config(runtime).protocol)
    rows = np.flatnonzero(targets.split == TEST)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:most])
    item_hash = hash_item_ids(log.item_id)
    hit = np.zeros((len(rows), len(pools)), dtype=bool)
    again, known = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    for done, row in enumerate(rows):
        past = slice(int(log.user_start[targets.user[row]]), int(targets.history_end[row]))
        state = runtime.prepare(item_hash[log.item[past]], log.timestamp[past])
        wanted = item_hash[targets.candidate[row, :1]]
        again[done] = bool((state.item_hash_L == wanted).any())
        known[done] = runtime.catalogue.item_row[runtime.catalogue.places(wanted)[0]] >= FIRST_ROW
        for column, pool in enumerate(pools):
            hit[done, column] = bool((runtime.retrieve(state, pool) == wanted).any())
        if done % 100 == 0:
            report(done, len(rows))
    report(len(rows), len(rows))

    def share(of: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], column: int) -> float:
        return float(hit[of, column].mean()) if of.any() else float("nan")

    every = np.ones(len(rows), dtype=bool)
    return {
        "num_targets": len(rows),
        "pools": [
            {
                "pool": pool,
                "recall": share(every, column),
                "recall_taken_before": share(again, column),
                "recall_new_to_the_user": share(~again, column),
                "recall_known_items": share(known, column),
            }
            for column, pool in enumerate(pools)
        ],
    }
