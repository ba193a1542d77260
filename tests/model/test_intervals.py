"""The paired bootstrap: known answers, ties, and intervals that cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.intervals import Interval, mean_auc, mean_auc_difference
from model.metrics import auc
from model.outcome import Outcome


def rows(users: int, per_user: int, signal: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = (rng.random(users * per_user) < 0.4).astype(np.float32)
    return label, label * signal + rng.normal(size=len(label)), np.repeat(np.arange(users), per_user)


def auc_difference(label: np.ndarray, score: np.ndarray, other: np.ndarray, user: np.ndarray) -> Interval:
    return mean_auc_difference([Outcome({}, score, label, user)], [Outcome({}, other, label, user)])


def test_a_model_is_not_ahead_of_itself() -> None:
    label, score, user = rows(30, 10, 1.0, 0)
    found = auc_difference(label, score, score, user)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_a_clear_difference_is_clear_and_a_missing_one_is_not() -> None:
    label, good, user = rows(100, 10, 1.5, 1)
    noise = np.random.default_rng(2).normal(size=len(label))
    found = auc_difference(label, good, noise, user)
    assert found.value == pytest.approx(auc(label, good) - auc(label, noise), abs=1e-12)
    assert 0.1 < found.low < found.value < found.high
    other = auc_difference(label, noise, np.random.default_rng(3).normal(size=len(label)), user)
    assert other.low < 0 < other.high


def test_resamples_draw_users_not_rows() -> None:
    """A hundred copies of each user's one row say no more than the row itself: the interval stays as wide."""
    label, score, user = rows(40, 1, 1.0, 4)
    noise = np.random.default_rng(5).normal(size=len(label))
    one = auc_difference(label, score, noise, user)
    many = auc_difference(*(np.repeat(value, 100) for value in (label, score, noise, user)))
    assert many.value == pytest.approx(one.value)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.01)


def test_one_user_has_no_interval() -> None:
    label, score, user = rows(1, 40, 1.0, 0)
    found = auc_difference(label, score, np.zeros(40), user)
    assert found.value > 0.1 and np.isnan([found.low, found.high]).all() and str(found).endswith("(one user: no interval)")


def test_ties_count_half() -> None:
    label, user = np.array([0.0, 1.0] * 20), np.arange(40) // 2
    found = auc_difference(label, label, np.zeros(40), user)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_one_class_has_no_auc_and_no_interval() -> None:
    found = auc_difference(np.ones(4), np.arange(4.0), np.arange(4.0), np.arange(4))
    assert np.isnan([found.value, found.low, found.high]).all() and str(found) == "-"


def outcome(users: int, signal: float, seed: int) -> Outcome:
    label, score, user = rows(users, 10, signal, seed)
    return Outcome({}, score.astype(np.float32), label, user)


def test_the_mean_over_seeds_is_the_mean_and_its_interval_holds_it() -> None:
    seeds, others = [outcome(60, 1.0, 6), outcome(60, 1.0, 7)], [outcome(60, 1.0, 6), outcome(60, 1.0, 7)]
    others = [replace(one, probability=np.random.default_rng(8).normal(size=len(one.label)).astype(np.float32)) for one in others]
    found, difference = mean_auc(seeds), mean_auc_difference(seeds, others)
    assert found.value == pytest.approx(np.mean([auc(one.label, one.probability) for one in seeds]))
    assert found.low < found.value < found.high
    assert difference.value == pytest.approx(found.value - np.mean([auc(one.label, one.probability) for one in others]))
    one = auc_difference(seeds[0].label, seeds[0].probability, others[0].probability, seeds[0].user)
    alone = mean_auc_difference(seeds[:1], others[:1])
    assert (alone.value, alone.low, alone.high) == pytest.approx((one.value, one.low, one.high))


def test_models_of_a_pair_are_tested_on_the_same_rows() -> None:
    with pytest.raises(ValueError, match="same rows; theirs differ: 600 and 500"):
        mean_auc_difference([outcome(60, 1.0, 6)], [outcome(50, 1.0, 6)])
