"""Figures of quality by hand and against scikit-learn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from model.metrics import auc, evaluate, expected_calibration_error, gauc, log_loss, without_nan


def rows(seed: int, size: int = 500, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    score = rng.random(size)
    if ties:
        score = np.round(score, 1)
    return (rng.random(size) < 0.3 + 0.4 * score).astype(np.float32), score.astype(np.float32), rng.integers(0, 20, size)


@pytest.mark.parametrize(
    ("label", "score", "expected"),
    [
        ([0, 1], [0.1, 0.9], 1.0),
        ([1, 0], [0.1, 0.9], 0.0),
        ([1, 0], [0.5, 0.5], 0.5),
        ([1, 0, 0, 1], [0.3, 0.2, 0.3, 0.9], 0.875),  # pairs 1.5 of 2 and 2 of 2
        ([0, 0, 1, 0], [5.0, -5.0, 0.0, 0.0], 0.5),
    ],
)
def test_auc_by_hand(label: list[int], score: list[float], expected: float) -> None:
    assert auc(np.array(label, float), np.array(score)) == expected


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_and_log_loss_are_scikit_learns(seed: int, ties: bool) -> None:
    label, score, _ = rows(seed, ties=ties)
    assert auc(label, score) == pytest.approx(sklearn_metrics.roc_auc_score(label, score), abs=1e-12)
    inside = np.clip(score, 0.01, 0.99)
    assert log_loss(label, inside) == pytest.approx(sklearn_metrics.log_loss(label, inside.astype(float)), abs=1e-12)


def test_one_class_has_no_auc() -> None:
    assert math.isnan(auc(np.ones(3), np.arange(3.0))) and math.isnan(auc(np.zeros(3), np.arange(3.0)))
    assert math.isnan(auc(np.zeros(0), np.zeros(0)))


def test_trap_4_gauc_groups_by_user() -> None:
    """Ordered rightly within each user, wrongly between users: 1 by user, less over all, and something else by category."""
    label, score = np.array([0, 1, 0, 1, 0, 1.0]), np.array([0.8, 0.9, 0.1, 0.2, 0.4, 0.5])
    user, category = np.array([7, 7, 3, 3, 5, 5]), np.array([0, 1, 1, 0, 1, 0])
    assert gauc(label, score, user) == 1.0
    assert auc(label, score) == pytest.approx(6 / 9)
    assert gauc(label, score, category) == pytest.approx((0.0 * 3 + 1.0 * 3) / 6)


def test_gauc_weighs_users_by_rows_and_leaves_out_those_of_one_class() -> None:
    label = np.array([1, 0, 1, 0, 0, 0, 1, 1])
    score = np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    user = np.array([1, 1, 2, 2, 2, 2, 3, 3])
    assert gauc(label.astype(float), score, user) == pytest.approx((1.0 * 2 + 0.0 * 4) / 6)
    assert math.isnan(gauc(np.ones(2), np.ones(2), np.array([1, 2])))


@pytest.mark.parametrize("seed", range(3))
def test_gauc_is_scikit_learns_auc_of_each_user(seed: int) -> None:
    label, score, user = rows(seed)
    total = [(sklearn_metrics.roc_auc_score(label[user == u], score[user == u]), (user == u).sum()) for u in np.unique(user)]
    expected = sum(value * size for value, size in total) / sum(size for _, size in total)
    order = np.random.default_rng(seed).permutation(len(user))
    assert gauc(label, score, user) == pytest.approx(expected) == gauc(label[order], score[order], user[order])


def test_log_loss_by_hand_and_at_the_ends() -> None:
    assert log_loss(np.array([1.0, 0.0]), np.array([0.8, 0.1])) == pytest.approx(-(math.log(0.8) + math.log(0.9)) / 2)
    assert log_loss(np.array([1.0]), np.array([0.0])) == pytest.approx(-math.log(1e-7))
    assert log_loss(np.array([1.0]), np.array([1.0], dtype=np.float32)) == pytest.approx(1e-7)


def test_calibration_error_by_hand() -> None:
    """Twenty bins of two rows: each bin says .5 and sees .5, then all say .9 and see .5."""
    label = np.tile([0.0, 1.0], 20)
    spread = np.repeat(np.linspace(0.2, 0.8, 20), 2)
    assert expected_calibration_error(label, np.full(40, 0.5)) == 0
    assert expected_calibration_error(label, np.full(40, 0.9)) == pytest.approx(0.4)
    assert expected_calibration_error(label, spread) == pytest.approx(np.abs(spread - 0.5).mean())


def test_calibration_error_is_the_gap_in_bins_of_equal_rows() -> None:
    label, probability, _ = rows(1, size=1000, ties=False)
    order = np.argsort(probability)
    gaps = [abs(label[order[50 * b : 50 * b + 50]].mean() - probability[order[50 * b : 50 * b + 50]].mean()) for b in range(20)]
    assert expected_calibration_error(label, probability) == pytest.approx(np.mean(gaps), rel=1e-5)
    honest = np.random.default_rng(0).random(200_000)
    assert expected_calibration_error((np.random.default_rng(1).random(200_000) < honest).astype(float), honest) < 0.01


def test_all_figures_come_from_their_own_rows() -> None:
    label, probability, user = rows(2)
    never, warm = np.random.default_rng(2).random((2, len(label))) < 0.5
    found = evaluate(label, probability, user, never, warm)
    assert found == {
        "auc": auc(label, probability),
        "gauc": gauc(label, probability, user),
        "log_loss": log_loss(label, probability),
        "ece": expected_calibration_error(label, probability),
        "auc_never_seen": auc(label[never], probability[never]),
        "auc_warm": auc(label[warm], probability[warm]),
        "num_test": int(label.sum()),
        "num_rows": len(label),
    }


def test_figures_that_do_not_exist_are_null_in_json() -> None:
    label, probability = np.array([1.0, 0.0]), np.array([0.5, 0.25])
    found = evaluate(label, probability, np.zeros(2, np.int64), np.zeros(2, bool), np.ones(2, bool))
    assert np.isnan(found["auc_never_seen"])
    plain = json.loads(json.dumps(without_nan({"rows": [found], "name": "x"}), allow_nan=False))
    assert plain == {"rows": [{**found, "auc_never_seen": None}], "name": "x"}
