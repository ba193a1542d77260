"""Evaluation of what is served: the test rows of the protocol, scored one request at a time by the runtime, without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from model.config import TrainConfig, from_dict
from model.data.log import InteractionLog
from model.data.protocol import TEST, Targets, split_targets
from model.item_hash import hash_item_ids
from model.metrics import evaluate
from model.runtime import ScoringRuntime


def train_config(runtime: ScoringRuntime) -> TrainConfig:
    """The configuration the served model was trained with."""
    config: TrainConfig = from_dict(TrainConfig, runtime.config["train"])
    return config


def evaluate_runtime(
    runtime: ScoringRuntime,
    log: InteractionLog,
    report: Callable[[int, int], None] = lambda done, total: None,
    targets: Targets | None = None,
) -> dict[str, Any]:
    """Figures of `model.metrics.evaluate` on the test rows of the artifact's own protocol.

    Each target is one request with the history that ends before its session; a user's history is extended from target to target.

    Args: `report` is called with (targets done, targets in all); `targets` in place of the protocol's drawn ones.
    """
    if targets is None:
        targets = split_targets(log, train_config(runtime).protocol)
    rows = np.flatnonzero(targets.split == TEST)
    rows = rows[np.lexsort((targets.history_end[rows], targets.user[rows]))]
    item_hash = hash_item_ids(log.item_id)
    probability = np.zeros((len(rows), targets.candidate.shape[1]), dtype=np.float32)
    unknown, never_seen = np.zeros(probability.shape, dtype=bool), np.zeros(probability.shape, dtype=bool)
    user, place, state = -1, 0, runtime.prepare(item_hash[:0], log.timestamp[:0])
    for done, row in enumerate(rows):
        end = int(targets.history_end[row])
        if targets.user[row] != user:
            user = int(targets.user[row])
            place = int(log.user_start[user])
            state = runtime.prepare(item_hash[:0], log.timestamp[:0])
        if end > place:
            state = runtime.extend(state, item_hash[log.item[place:end]], log.timestamp[place:end])
            place = end
        candidate = item_hash[targets.candidate[row]]
        scored = runtime.score(state, candidate, int(targets.timestamp[row]))
        probability[done], unknown[done] = scored.click_probability_N, scored.unknown_N
        never_seen[done] = state.items.lookup(candidate).count == 0
        if done % 200 == 0:
            report(done, len(rows))
    report(len(rows), len(rows))
    who = np.repeat(targets.user[rows], probability.shape[1])
    return evaluate(targets.label[rows].reshape(-1), probability.reshape(-1), who, never_seen.reshape(-1), ~unknown.reshape(-1))
