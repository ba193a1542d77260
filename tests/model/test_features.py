"""Counts, ages, statistics and taste equal plain loops over one history, and no target is inside its own statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, VALIDATION, ProtocolConfig, split_targets
from model.dataset import Dataset, prepare
from model.feature_source import FeatureSource
from model.features import FEATURE_NAMES, ITEM_STATISTICS, KeyRecord
from model.history_index import HistoryIndex
from model.recency import MAX_LENGTH
from model.statistics import item_statistics
from model.taste import fit_taste
from tests.conftest import tiny_config
from tests.model.small_log import random_log, small_log
from tests.oracles import features as oracle

ALL = ProtocolConfig(validation_targets=None, test_targets=None, first_target=5)


def category_of(log: InteractionLog) -> list[int]:
    return [int(c) for c in log.item_category]


def history(log: InteractionLog, first: int, last: int) -> list[oracle.Behavior]:
    return [(int(log.item[i]), int(log.item_category[log.item[i]]), int(log.timestamp[i])) for i in range(first, last)]


@pytest.mark.parametrize("longest", [None, 30])
def test_every_feature_equals_the_loops(longest: int | None) -> None:
    log = random_log(11, users=6, items=30)
    source = FeatureSource(log, longest, taste_width=4)
    targets = split_targets(log, ALL)
    known = (np.arange(log.num_behaviors) % 7 != 0) & (log.timestamp < np.quantile(log.timestamp, 0.8))
    behaviors = list(zip(log.item[known].tolist(), log.timestamp[known].tolist(), strict=True))
    world = source.world(known)
    chosen = np.random.default_rng(0).permutation(len(targets.behavior))[:60]
    found = source.features(targets, chosen, world)
    assert found.shape == (60, 3, len(FEATURE_NAMES)) and found.dtype == np.float32
    for t, row in enumerate(chosen):
        first, last = int(log.user_start[targets.user[row]]), int(targets.history_end[row])
        seen = history(log, first if longest is None else max(first, last - longest), last)
        for c, item in enumerate(targets.candidate[row].tolist()):
            statistic = dict(zip(ITEM_STATISTICS, world.statistic[item].tolist(), strict=True))
            candidate = (item, int(log.item_category[item]))
            vector, weight = world.taste.vector.tolist(), world.taste.weight.tolist()
            now = int(targets.timestamp[row])
            popular = oracle.popularity(behaviors, item, now, len(log.item_id))
            expected = oracle.features(seen, candidate, now, statistic, vector, weight, popular)
            assert set(expected) == set(FEATURE_NAMES)
            np.testing.assert_allclose(found[t, c], [expected[name] for name in FEATURE_NAMES], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_item_statistics_equal_the_loops(seed: int) -> None:
    log = random_log(seed, users=10, items=25)
    user = log.user_of_behavior()
    found = item_statistics(user, log.item.astype(np.int64), log.timestamp, log.item_category.astype(np.int64), len(log.category_id))
    behaviors = list(zip(user.tolist(), log.item.tolist(), log.timestamp.tolist(), strict=True))
    expected = oracle.statistics(behaviors, category_of(log), len(log.category_id))
    for item, row in enumerate(expected):
        np.testing.assert_allclose(found[item], [row[name] for name in ITEM_STATISTICS], rtol=1e-5, atol=1e-6)


def test_statistics_of_nothing_are_finite_and_the_same_for_all() -> None:
    none = np.zeros(0, dtype=np.int64)
    found = item_statistics(none, none, none, np.array([0, -1, 0]), 2)
    assert np.isfinite(found).all() and (found[0] == found[2]).all()


def prepared(log: InteractionLog) -> Dataset:
    return prepare(log, replace(tiny_config(), protocol=replace(ALL, first_target=20)))


@pytest.mark.parametrize("which", [TRAIN, VALIDATION, TEST], ids=["training", "validation", "test"])
def test_trap_no_target_is_inside_its_own_statistics(which: int) -> None:
    """What really happened leaves no trace: the drawn item's features are the same when it becomes the very item that was taken."""
    log = random_log(12, users=10, items=30)
    before = prepared(log)
    examples = {TRAIN: before.train, VALIDATION: before.validation, TEST: before.test}[which]
    compared = 0
    for row in np.random.default_rng(1).permutation(len(examples.chosen))[:5]:
        target = examples.chosen[row]
        event, taken, drawn = int(before.test.targets.behavior[target]), *examples.targets.candidate[target, :2].tolist()
        if taken == drawn:
            continue
        changed = replace(log, item=log.item.copy())
        changed.item[event] = drawn
        after = prepared(changed)
        same = {TRAIN: after.train, VALIDATION: after.validation, TEST: after.test}[which]
        assert same.targets.behavior[same.chosen[row]] == event and same.targets.candidate[same.chosen[row], 0] == drawn
        np.testing.assert_array_equal(same.extra[row, 0], examples.extra[row, 1])
        compared += 1
    assert compared >= 3


def test_the_future_of_a_user_is_not_in_the_features() -> None:
    """Everything from the target's session on may change; its features do not."""
    log = random_log(13, users=10, items=30)
    before = prepared(log)
    user = 4
    rows = np.flatnonzero(before.test.targets.user[before.test.chosen] == user)
    last = int(before.test.targets.history_end[before.test.chosen[rows[0]]])
    changed = replace(log, item=log.item.copy(), item_category=log.item_category)
    changed.item[last : log.user_start[user + 1]] = 0
    after = prepared(changed)
    np.testing.assert_array_equal(before.test.extra[rows[0], 1:], after.test.extra[rows[0], 1:])


def test_statistics_of_validation_and_test_rows_come_from_the_training_period() -> None:
    log = random_log(14, users=10, items=30)
    place = (np.arange(log.num_behaviors) - np.repeat(log.user_start[:-1], np.diff(log.user_start))).tolist()
    length = np.repeat(np.diff(log.user_start), np.diff(log.user_start)).tolist()
    user, item, time = log.user_of_behavior().tolist(), log.item.tolist(), log.timestamp.tolist()
    known = [(user[i], item[i], time[i]) for i in range(log.num_behaviors) if place[i] < length[i] * 7 // 10]
    expected = oracle.statistics(known, [*category_of(log), -1], len(log.category_id))  # the world has a row for the item nobody knows
    data = prepared(log)
    first = FEATURE_NAMES.index(f"statistic_{ITEM_STATISTICS[0]}")
    for examples in (data.validation, data.test):
        for row in range(0, len(examples.chosen), 7):
            candidate = int(examples.targets.candidate[examples.chosen[row], 1])
            found = examples.extra[row, 1, first : first + len(ITEM_STATISTICS)]
            np.testing.assert_allclose(found, [expected[candidate][name] for name in ITEM_STATISTICS], rtol=1e-5, atol=1e-6)


def test_never_seen_is_about_the_whole_visible_history() -> None:
    log = random_log(15)
    data = prepared(log)
    for row, target in enumerate(data.test.chosen):
        first, last = log.user_start[data.test.targets.user[target]], data.test.targets.history_end[target]
        seen = set(log.item[first:last].tolist())
        assert data.test.never_seen[row].tolist() == [item not in seen for item in data.test.targets.candidate[target].tolist()]


def test_a_history_beyond_100_000_counts_what_the_runtime_reads() -> None:
    """Serving keeps the newest 100,000 behaviors; the features of training must not count more."""
    length = MAX_LENGTH + 200
    log = small_log([[(i % 997, 60 * i, i) for i in range(length)]], num_items=1000)
    targets = split_targets(log, ProtocolConfig(test_targets=2, train_targets=1, validation_targets=1))
    last = replace(targets, history_end=np.full_like(targets.history_end, length))
    source = FeatureSource(log, taste_width=1)
    found = source.features(last, np.array([0]), source.world(np.arange(length) < 1000))[0, 0]
    counted = {name: round(float(np.expm1(found[FEATURE_NAMES.index(name)]))) for name in ("user_log_length", "item_log_count")}
    item = int(targets.candidate[0, 0])
    assert counted == {"user_log_length": MAX_LENGTH, "item_log_count": int((log.item[-MAX_LENGTH:] == item).sum())}
    assert counted["item_log_count"] < (log.item == item).sum()


KEYS = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 200_000)), max_size=20), min_size=1, max_size=4)


@given(KEYS, st.data())
@settings(max_examples=200)
def test_the_history_index_equals_counting(users: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    """Any user, key and range: count, first, newest, place, decayed sums and distinct keys, as a loop finds them."""
    times = [np.cumsum([gap for _, gap in behaviors]).tolist() for behaviors in users]
    start = np.concatenate([[0], np.cumsum([len(behaviors) for behaviors in users])]).astype(np.int64)
    user = np.repeat(np.arange(len(users)), np.diff(start))
    key = np.array([k for behaviors in users for k, _ in behaviors], dtype=np.int64)
    time = np.array([t for of_user in times for t in of_user], dtype=np.int64)
    index = HistoryIndex(user, key, time, start)
    asked = data.draw(st.lists(st.tuples(st.integers(0, len(users) - 1), st.integers(-1, 6)), max_size=8))
    ranges = [sorted(data.draw(st.tuples(*[st.integers(int(start[who]), int(start[who + 1]))] * 2))) for who, _ in asked]
    first, last = (np.array([r[side] for r in ranges], dtype=np.int64) for side in (0, 1))
    found = index.records(np.array([w for w, _ in asked], dtype=np.int64), np.array([k for _, k in asked], dtype=np.int64), first, last)
    for m, ((_, wanted), (low, high)) in enumerate(zip(asked, ranges, strict=True)):
        places = [i for i in range(low, high) if key[i] == wanted]
        assert found.count[m] == len(places)
        assert found.first_s[m] == (time[places[0]] if places else 0) and found.newest_s[m] == (time[places[-1]] if places else 0)
        assert found.position[m] == (places[-1] - low if places else 0)
        sums = [oracle.decayed([int(time[i]) for i in places], int(time[places[-1]]), days) if places else 0 for days in oracle.DECAYS]
        np.testing.assert_allclose(found.decayed[m], sums, rtol=1e-9, atol=1e-9)
    assert index.distinct(first, last).tolist() == [len({*key[low:high].tolist()}) for low, high in ranges]


def test_records_of_nothing_are_empty() -> None:
    none = np.zeros(0, dtype=np.int64)
    record = HistoryIndex(none, none, none, np.zeros(1, dtype=np.int64)).records(np.array([0]), np.array([3]), np.array([0]), np.array([0]))
    assert isinstance(record, KeyRecord) and record.count.tolist() == [0]


def test_taste_puts_items_of_the_same_users_together() -> None:
    """Two groups of users, two groups of items: an item of one's own group is nearer, whatever the user has taken."""
    rng = np.random.default_rng(3)
    user = np.repeat(np.arange(40), 30)
    item = rng.integers(0, 10, len(user)) + 10 * (user % 2)
    item[rng.random(len(user)) < 0.1] = 20  # everybody's item
    table = fit_taste(user, item, 25, 6, seed=0)
    for group in (0, 1):
        profile = table.profile(np.arange(10 * group, 10 * group + 5)).tolist()
        own, other = ([oracle.cosine(profile, table.vector[10 * g + j].tolist()) for j in range(5, 10)] for g in (group, 1 - group))
        assert min(own) > max(other) + 0.3
    assert not table.vector[21:].any() and not table.weight[21:].any(), "an item nobody took has no taste"
    assert table.weight[20] < table.weight[:20].min(), "everybody's item says least"


def test_taste_is_the_truncated_svd_of_the_weighted_counts() -> None:
    log = random_log(16, users=25, items=20)
    user, item = log.user_of_behavior(), log.item.astype(np.int64)
    table = fit_taste(user, item, 20, 5, seed=0)
    counts = np.zeros((25, 20))
    np.add.at(counts, (user, item), 1)
    buyers = (counts > 0).sum(axis=0)
    idf = np.where(buyers >= 5, np.log(26 / (buyers + 1)), 0.0)
    weighted = np.log1p(counts) * idf
    weighted /= np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-9)
    _, singular, right = np.linalg.svd(weighted)
    expected = (right[:5].T * singular[:5]) @ right[:5] / singular[0]  # inner products are free of the vectors' signs and order
    np.testing.assert_allclose(table.vector.astype(np.float64) @ table.vector.T, expected, atol=1e-5)
    np.testing.assert_allclose(table.weight, idf, rtol=1e-6)


@pytest.mark.parametrize(("users", "items"), [(0, 0), (1, 30), (6, 1), (4, 30)])
def test_too_little_for_taste_gives_zeros(users: int, items: int) -> None:
    user, item = np.repeat(np.arange(users), items), np.tile(np.arange(items), users)
    table = fit_taste(user, item, 40, 8, seed=0)
    assert table.vector.shape == (40, 8) and not table.vector.any() and not table.weight.any()
    assert table.profile(np.zeros(3, dtype=np.int64)).tolist() == [0.0] * 8
