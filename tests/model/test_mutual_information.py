"""Mutual information between the click and a behavior's category: by hand, in plain loops, and as a judge of search."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, ProtocolConfig, Targets, split_targets
from model.mutual_information import DISTANCES, InformationError, Informed, MutualInformation, distance_of
from model.search_quality import moments, rules
from tests.model.small_log import random_log, small_log

PROTOCOL = ProtocolConfig(first_target=5)


def by_loops(log: InteractionLog, targets: Targets) -> dict[tuple[int, int, int], float]:
    """Another implementation: dictionaries, one pair at a time."""
    pairs: Counter[tuple[int, int, int, int]] = Counter()
    places: Counter[tuple[int, int, int]] = Counter()
    reached: Counter[tuple[int, int]] = Counter()
    for t in np.flatnonzero(targets.split == TRAIN).tolist():
        start, end = int(log.user_start[targets.user[t]]), int(targets.history_end[t])
        for item, label in zip(targets.candidate[t].tolist(), targets.label[t].tolist(), strict=True):
            c = int(log.item_category[item])
            if c < 0:
                continue
            for p in {math.ceil(math.log2(end - j)) for j in range(start, end)}:
                reached[c, p] += 1
            for j in range(start, end):
                p, b = math.ceil(math.log2(end - j)), int(log.item_category[log.item[j]])
                places[c, p, int(label)] += 1
                if b >= 0:
                    pairs[c, b, p, int(label)] += 1
    found = {}
    for c, b, p in {key[:3] for key in pairs}:
        n = [[places[c, p, y] - pairs[c, b, p, y], pairs[c, b, p, y]] for y in (0, 1)]
        total = sum(map(sum, n))
        value = 0.0
        for y in (0, 1):
            for x in (0, 1):
                if n[y][x]:
                    value += n[y][x] / total * math.log(n[y][x] * total / (sum(n[y]) * (n[0][x] + n[1][x])))
        if value > 10.83 / (2 * reached[c, p]):
            found[c, b, p] = value - 0.5 / reached[c, p]
    return found


def test_distances_double() -> None:
    assert distance_of(np.array([1, 2, 3, 4, 5, 8, 9, 100_000, 1_000_000])).tolist() == [0, 1, 2, 2, 3, 3, 4, 17, DISTANCES - 1]


def test_the_information_is_that_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    log = replace(telling_log(), item_category=np.array([0, 1, 2, -1], dtype=np.int32))
    targets = split_targets(log, PROTOCOL)
    expected = by_loops(log, targets)
    monkeypatch.setattr("model.mutual_information._BATCH", 5000)
    found = MutualInformation.fit(log, targets)
    got = {}
    for key, value in zip(found.key.tolist(), found.information.tolist(), strict=True):
        pair, p = divmod(key, DISTANCES)
        got[(*divmod(pair, found.categories), p)] = value
    assert 5 < len(got) < 50
    assert got == pytest.approx(expected, abs=1e-12)


def telling_log() -> InteractionLog:
    """Category 1 is taken right after category 0, which else never comes next; 2 and 3 are noise. Every item is a session of its own."""
    rng = np.random.default_rng(0)
    users = []
    for _ in range(30):
        items: list[int] = []
        while len(items) < 60:
            items += [0, 1] if rng.random() < 0.3 else [int(rng.integers(2, 4))]
        users.append([(item, 1000 * i, i) for i, item in enumerate(items)])
    return small_log(users, category=[0, 1, 2, 3])


def test_what_tells_is_found_where_it_tells() -> None:
    log = telling_log()
    information = MutualInformation.fit(log, split_targets(log, PROTOCOL))
    history = np.array([0, 2, 3, 2, 0])
    row = information.of(np.array([1]), history)[0]
    assert row[4] > 0.1, "category 0 right before the target"
    assert row[4] > 10 * row[[1, 2, 3]].max()
    assert row[4] > 3 * row[0], "the same category, five back"
    assert information.of(np.array([-1]), history).max() == 0.0
    assert information.of(np.array([1]), np.full(5, -1)).max() == 0.0


def test_rules_are_judged_by_information() -> None:
    log = telling_log()
    targets = split_targets(log, PROTOCOL)
    judge = Informed.read(log, targets, MutualInformation.fit(log, targets), most=50)
    assert len(judge.user) == 50 * targets.candidate.shape[1]
    assert set(targets.timestamp[targets.split == TEST]) >= set(judge.timestamp)
    for rows in moments(judge):
        assert len(set(judge.position[rows].tolist())) == 1
        assert judge.dense(rows).shape == (rows.stop - rows.start, judge.position[rows.start])
    found = rules(judge, log, 1)
    assert found["oracle"]["ndcg"] == found["oracle"]["recall"] == 1.0
    assert found["newest"]["ndcg"] > 2 * found["random"]["ndcg"]


def test_noise_is_worth_nothing() -> None:
    log = random_log(1)
    with pytest.raises(InformationError, match="no category before a candidate says more about its click than chance would"):
        MutualInformation.fit(replace(log, item=np.random.default_rng(0).permutation(log.item)), split_targets(log, PROTOCOL))


def test_the_draw_is_bounded_and_seeded() -> None:
    log = telling_log()
    targets = split_targets(log, PROTOCOL)
    few = MutualInformation.fit(log, targets, seed=1, pairs=20_000)
    assert 0 < few.candidates < (targets.split == TRAIN).sum() * targets.candidate.shape[1]
    again, other = (MutualInformation.fit(log, targets, seed=seed, pairs=20_000) for seed in (1, 2))
    assert np.array_equal(few.information, again.information)
    assert not np.array_equal(few.information, other.information)


def test_data_that_cannot_be_measured_are_refused() -> None:
    log = random_log(2)
    targets = split_targets(log, PROTOCOL)
    with pytest.raises(InformationError, match="no item has a category"):
        MutualInformation.fit(replace(log, item_category=np.full_like(log.item_category, -1)), targets)
    with pytest.raises(InformationError, match="all training labels are alike"):
        MutualInformation.fit(log, replace(targets, label=np.ones_like(targets.label)))
