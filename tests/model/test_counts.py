"""The counts baseline: what it reads, on which rows, and that it finds what counts can say."""

from __future__ import annotations

import numpy as np
import pytest

from model.counts import counts_baseline
from model.data.protocol import TEST, ProtocolConfig, split_targets
from model.metrics import auc
from tests.model.small_log import random_log, small_log

CONFIG = ProtocolConfig(first_target=10, test_targets=None)


def test_it_is_tested_on_the_protocols_rows_and_beats_chance_where_people_return() -> None:
    log = random_log(21, users=40)
    found = counts_baseline(log, CONFIG).figures
    targets = split_targets(log, CONFIG)
    test = targets.split == TEST
    assert found["num_test"] == test.sum() and found["num_rows"] == 3 * test.sum()
    counted = np.array(
        [
            [(log.item[log.user_start[u] : end] == item).sum() for item in row]
            for u, end, row in zip(targets.user[test], targets.history_end[test], targets.candidate[test], strict=True)
        ]
    )
    by_count_alone = auc(targets.label[test].reshape(-1), counted.reshape(-1).astype(float))
    assert found["auc"] > by_count_alone - 0.02 > 0.6
    assert 0 < found["log_loss"] < 0.64 and found["ece"] < 0.1


def test_the_same_call_gives_the_same_figures() -> None:
    log = random_log(22)
    assert counts_baseline(log, CONFIG).figures == counts_baseline(log, CONFIG).figures


def test_a_shorter_history_knows_less() -> None:
    """Everybody returns to his own items after sixty others: ten behaviors cannot see it, the whole history can."""
    rng = np.random.default_rng(5)
    users = []
    for _ in range(30):
        own = rng.permutation(300)[:60]
        users.append([(int(own[i % 60]), 100 * i, i) for i in range(200)])
    log = small_log(users)
    whole, cut = counts_baseline(log, CONFIG).figures["auc"], counts_baseline(log, CONFIG, longest=10).figures["auc"]
    assert whole > 0.85 and cut < 0.6


def test_nobody_can_know_what_is_random() -> None:
    rng = np.random.default_rng(6)
    log = small_log([[(int(i), 100 * t, t) for t, i in enumerate(rng.integers(0, 200, 150))] for _ in range(40)])
    assert counts_baseline(log, CONFIG).figures["auc"] == pytest.approx(0.5, abs=0.05)


def test_many_training_rows_are_sampled_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.counts._MAX_TRAIN_ROWS", 300)
    log = random_log(23, users=20)
    first, again, other = (counts_baseline(log, CONFIG, seed=seed).figures for seed in (0, 0, 1))
    assert first == again and first["auc"] != other["auc"] and first["num_test"] == other["num_test"]


def test_warm_rows_follow_the_models_own_threshold() -> None:
    log = random_log(24, users=20)
    rare, common = (counts_baseline(log, CONFIG, min_item_count=least).figures["auc_warm"] for least in (1, 30))
    assert rare != common and np.isfinite([rare, common]).all()
