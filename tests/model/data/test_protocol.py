"""How targets are chosen: by each user's own order, history before the session, negatives that leak no label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.log import InteractionLog
from model.data.protocol import (
    TEST,
    TRAIN,
    VALIDATION,
    ProtocolConfig,
    Targets,
    history_end,
    split_of_behavior,
    split_targets,
    training_period_mask,
)
from model.dataset import Vocabulary
from model.metrics import auc
from tests.model.small_log import random_log, small_log
from tests.oracles import protocol as oracle

ALL = ProtocolConfig(validation_targets=None, test_targets=None)


def one_user(length: int) -> InteractionLog:
    return small_log([[(i % 7, 100 * i, i) for i in range(length)]])


def place(log: InteractionLog, event: np.ndarray) -> np.ndarray:
    return event - log.user_start[log.user_of_behavior()[event]]


@pytest.mark.parametrize(("length", "train", "validation"), [(10, 7, 1), (100, 70, 10), (7, 4, 1), (1, 0, 0), (3, 2, 0), (407, 284, 41)])
def test_seventy_ten_twenty_by_place(length: int, train: int, validation: int) -> None:
    split = split_of_behavior(one_user(length), ProtocolConfig())
    assert split.tolist() == [TRAIN] * train + [VALIDATION] * validation + [TEST] * (length - train - validation)


def test_the_split_is_by_whole_numbers_at_every_length() -> None:
    """.7 has no exact float: the borders must be those of exact arithmetic for every length."""
    lengths = np.arange(1, 1200)
    log = replace(one_user(1), user_start=np.concatenate([[0], np.cumsum(lengths)]), item=np.zeros(lengths.sum(), np.int32))
    split = split_of_behavior(log, ProtocolConfig())
    user = np.repeat(np.arange(len(lengths)), lengths)
    for which, share in ((TRAIN, lengths * 7 // 10), (VALIDATION, lengths * 8 // 10 - lengths * 7 // 10)):
        found = np.bincount(user[split == which], minlength=len(lengths))
        assert found.tolist() == share.tolist()


def test_the_first_fifty_behaviors_are_never_targets() -> None:
    log = random_log(1)
    targets = split_targets(log, ALL)
    assert place(log, targets.behavior).min() == 50
    assert place(log, split_targets(log, replace(ALL, first_target=5)).behavior).min() < 50


@pytest.mark.parametrize("seed", range(4))
def test_history_ends_before_the_session_and_the_second(seed: int) -> None:
    log = random_log(seed)
    assert history_end(log).tolist() == [oracle.history_end(log, event) for event in range(log.num_behaviors)]


def test_a_basket_is_hidden_from_its_own_items() -> None:
    """A basket shares one timestamp: were half of it visible, it would predict the other half."""
    basket = [(item, 5000, 60) for item in range(5)]
    log = small_log([[(i, 10 * i, i) for i in range(60)] + basket])
    assert history_end(log)[60:].tolist() == [60] * 5
    without_sessions = replace(log, session=np.arange(log.num_behaviors))
    assert history_end(without_sessions)[60:].tolist() == [60] * 5, "the shared second alone hides it"
    hours_apart = small_log([[(i, 10 * i, i) for i in range(60)] + [(item, 5000 + 3600 * item, 60) for item in range(5)]])
    assert history_end(hours_apart)[60:].tolist() == [60] * 5, "the shared session alone hides it"


def test_every_row_is_what_its_event_says() -> None:
    log = random_log(2)
    targets = split_targets(log, ALL)
    assert targets.user.tolist() == log.user_of_behavior()[targets.behavior].tolist()
    assert targets.timestamp.tolist() == log.timestamp[targets.behavior].tolist()
    assert targets.history_end.tolist() == history_end(log)[targets.behavior].tolist()
    assert (targets.history_end > log.user_start[targets.user]).all() and (targets.history_end <= targets.behavior).all()
    assert targets.candidate[:, 0].tolist() == log.item[targets.behavior].tolist()
    assert targets.label.tolist() == [[1.0, 0.0, 0.0]] * len(targets.behavior)
    length = np.diff(log.user_start)[targets.user]
    expected = [oracle.split_of(p, n) for p, n in zip(place(log, targets.behavior).tolist(), length.tolist(), strict=True)]
    assert targets.split.tolist() == expected
    for which in (TRAIN, VALIDATION, TEST):
        assert (np.diff(targets.behavior[targets.split == which]) > 0).all(), "sorted by behavior, each once"


def test_caps_are_per_user_and_reached() -> None:
    log = random_log(3, shortest=120, longest=200)
    targets = split_targets(log, ProtocolConfig(train_targets=4, validation_targets=3, test_targets=12))
    every = split_targets(log, ALL)
    for which, most in ((TRAIN, 4), (VALIDATION, 3), (TEST, 12)):
        taken = np.bincount(targets.user[targets.split == which], minlength=log.num_users)
        there = np.bincount(every.user[every.split == which], minlength=log.num_users)
        assert taken.tolist() == np.minimum(there, most).tolist()
        assert set(targets.behavior[targets.split == which]) <= set(every.behavior[every.split == which])


def rows_of(targets: Targets, which: int) -> list[list[int]]:
    rows = targets.split == which
    return np.concatenate([targets.behavior[rows, None], targets.candidate[rows]], axis=1).tolist()


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    log = random_log(4)
    first, again, other = (split_targets(log, ProtocolConfig(seed=seed, train_targets=10)) for seed in (0, 0, 1))
    for which in (TRAIN, VALIDATION, TEST):
        assert rows_of(first, which) == rows_of(again, which) != rows_of(other, which)
    digests = [split_targets(log, replace(ALL, seed=seed)).digest() for seed in (3, 3, 4)]
    assert digests[0] == digests[1] != digests[2], "by which a checkpoint knows its targets"


def test_test_rows_do_not_depend_on_how_many_train() -> None:
    log = random_log(5)
    few, many = (split_targets(log, ProtocolConfig(train_targets=n, validation_targets=3)) for n in (2, None))
    assert rows_of(few, TEST) == rows_of(many, TEST) and rows_of(few, VALIDATION) == rows_of(many, VALIDATION)


def test_negatives_come_from_the_multiset_of_the_training_period() -> None:
    """Drawn as often as sold before the border; what is first sold after it is never a negative."""
    log = random_log(6, users=30, items=15)
    last = log.user_start[1:] - 1
    late = replace(log, item=log.item.copy(), item_id=[*log.item_id, "late"], item_category=np.append(log.item_category, np.int32(-1)))
    late.item[last] = 15
    targets = split_targets(late, replace(ALL, negatives=8))
    drawn = np.bincount(targets.candidate[:, 1:].reshape(-1), minlength=16)
    sold = np.bincount(late.item[training_period_mask(late, ALL)], minlength=16)
    assert drawn[15] == sold[15] == 0 and (targets.candidate[:, 0] == 15).any()
    expected = drawn.sum() * sold / sold.sum()
    chi_squared = ((drawn - expected)[:15] ** 2 / expected[:15]).sum()
    assert chi_squared < 36.1, "99.9 % of draws from that distribution (14 degrees of freedom)"


def test_nothing_is_excluded_from_the_negatives() -> None:
    """Items the user took, and the target itself, are drawn as often as anything else."""
    log = small_log([[(i % 3, 10 * i, i) for i in range(100)] for _ in range(20)])
    targets = split_targets(log, replace(ALL, negatives=4))
    own = (targets.candidate[:, 1:] == targets.candidate[:, :1]).mean()
    assert own == pytest.approx(1 / 3, abs=0.04)


def seen_before_auc(log: InteractionLog, rule: str) -> tuple[float, float]:
    """AUC of "the user has taken it before" alone, and the share of positives it holds for."""
    targets = split_targets(log, replace(ALL, negative_rule=rule))
    taken = [set(log.item[log.user_start[u] : end].tolist()) for u, end in zip(targets.user, targets.history_end, strict=True)]
    seen = np.array([[item in before for item in row] for row, before in zip(targets.candidate.tolist(), taken, strict=True)], dtype=float)
    return auc(targets.label.reshape(-1), seen.reshape(-1)), float(seen[:, 0].mean())


def test_trap_excluding_what_was_taken_leaks_the_label_and_the_default_does_not() -> None:
    """Everybody draws from the same items at random: nothing can be known, and "taken before" must not seem to know it."""
    rng = np.random.default_rng(7)
    log = small_log([[(int(i), 10 * t, t) for t, i in enumerate(rng.integers(0, 150, 120))] for _ in range(40)])
    honest, _ = seen_before_auc(log, "popularity")
    leaking, repeats = seen_before_auc(log, "paper")
    assert honest == pytest.approx(0.5, abs=0.02)
    assert leaking == pytest.approx(0.5 + repeats / 2) and leaking > 0.7


def test_the_paper_rule_never_draws_what_the_user_ever_takes() -> None:
    log = random_log(8)
    targets = split_targets(log, replace(ALL, negative_rule="paper"))
    for user in range(log.num_users):
        ever = set(log.item[log.user_start[user] : log.user_start[user + 1]].tolist())
        assert not ever & set(targets.candidate[targets.user == user, 1:].reshape(-1).tolist())


def test_the_paper_rule_says_when_nothing_is_left_to_draw() -> None:
    log = small_log([[(i % 3, 10 * i, i) for i in range(100)]])
    with pytest.raises(ValueError, match="consumed nearly everything"):
        split_targets(log, replace(ALL, negative_rule="paper"))


def test_trailing_negatives_are_of_the_30_days_before_the_target() -> None:
    """Each item is bought on one day only: a negative's item says when it was bought, by whomever."""
    day = 86_400
    log = small_log([[(i, day * i + 7 * user, i) for i in range(200)] for user in range(5)])
    targets = split_targets(log, replace(ALL, negative_rule="trailing"))
    bought = np.full(200, -1)
    bought[log.item] = log.timestamp // day
    ago = targets.timestamp[:, None] // day - bought[targets.candidate[:, 1:]]
    assert ago.min() >= 0 and ago.max() == 30 and len(np.unique(ago)) == 31
    alone = targets.user == 0  # the first buyer of a day has nobody's same day before
    assert ago[alone].min() == 1


def test_trailing_negatives_of_a_lonely_moment_come_from_the_training_period() -> None:
    log = small_log([[(i % 9, 40 * 86_400 * i, i) for i in range(100)]])
    targets = split_targets(log, replace(ALL, negative_rule="trailing"))
    assert set(targets.candidate[:, 1:].reshape(-1).tolist()) == set(range(9))


def test_too_little_data_is_a_plain_sentence() -> None:
    """A hundred users of five behaviors: no user ever has the fifty earlier ones that a target needs."""
    log = small_log([[(i, 10 * i, i) for i in range(5)] for _ in range(100)])
    with pytest.raises(ValueError, match="no training target: it needs 50 earlier behaviors of its user; the longest of 100 users has 5"):
        split_targets(log, ProtocolConfig())


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ([(i, 7, i) for i in range(90)], "nothing is left of it for any of 13 behaviors; do a user's behaviors all have one session_id"),
        ([(i, 10 * i, 0) for i in range(90)], "nothing is left of it for any of 13 behaviors"),
        ([(i, 10 * i, i) for i in range(51)], "no training target: it needs 50 earlier behaviors"),
    ],
    ids=["one second", "one session", "one too few"],
)
def test_why_there_is_no_target_is_said(history: list[tuple[int, int, int]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_targets(small_log([history]), ProtocolConfig())


def test_three_behaviors_of_a_user_leave_none_to_validate_on() -> None:
    log = small_log([[(i, 10 * i + user, i) for i in range(3)] for user in range(50)])
    with pytest.raises(ValueError, match=r"no validation target: no behavior lies there: of a user the first 70% .*--split time"):
        split_targets(log, ProtocolConfig(first_target=1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"negative_rule": "uniform"}, "'uniform'"),
        ({"negatives": 0}, "negatives must be at least 1, got 0"),
        ({"train_share": 1.2}, "train_share.*1.2"),
        ({"train_share": 0.95}, "train_share.*0.95"),
        ({"validation_share": 0.0}, "validation_share.*0.0"),
        ({"validation_share": float("nan")}, "validation_share.*nan"),
        ({"train_targets": 0}, "train_targets.*0"),
        ({"test_targets": -1}, "test_targets.*-1"),
        ({"first_target": -1}, "first_target.*-1"),
        ({"seed": -1}, "seed.*-1"),
    ],
)
def test_an_impossible_protocol_is_refused_by_name(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ProtocolConfig(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.7, 0.5])
def test_trap_the_vocabulary_knows_the_training_period_alone(share: float) -> None:
    """An item first sold later has the unknown row, whatever the share of the training period is."""
    config = ProtocolConfig(train_share=share)
    cut = int(100 * share)
    early = [(i % 4, 10 * i, i) for i in range(cut)]
    log = small_log([early + [(4, 10 * i, i) for i in range(cut, 100)]], category=[0, 0, 1, -1, 2])
    vocabulary = Vocabulary.from_training_period(log, 1, config)
    assert vocabulary.item_row.tolist() == [2, 3, 4, 5, 1] and vocabulary.num_items == 6
    assert vocabulary.category_row.tolist() == [2, 2, 3, 1, 1] and vocabulary.num_categories == 4
    rare = Vocabulary.from_training_period(log, cut // 4 + 1, config)
    assert set(rare.item_row[2:].tolist()) == {1}, "too rare for a row of its own"


HISTORIES = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.booleans()), min_size=1, max_size=25), min_size=1, max_size=5
)


@given(HISTORIES, st.integers(0, 6), st.integers(0, 2**32))
@settings(max_examples=150)
def test_any_log_keeps_the_rules(histories: list[list[tuple[int, int, bool]]], first: int, seed: int) -> None:
    """Whatever the log: ends as the oracle says, splits by place, histories never empty, negatives out of the training period."""
    users = []
    for history in histories:
        time = session = 0
        behaviors = []
        for item, gap, new_session in history:
            time, session = time + gap, session + new_session
            behaviors.append((item, time, session))
        users.append(behaviors)
    log = small_log(users)
    ends = history_end(log)
    assert ends.tolist() == [oracle.history_end(log, event) for event in range(log.num_behaviors)]
    config = ProtocolConfig(seed=seed, first_target=first, train_targets=2, validation_targets=2, test_targets=2)
    usable = [place(log, np.array([e]))[0] >= first and ends[e] > log.user_start[log.user_of_behavior()[e]] for e in range(len(ends))]
    if len({*split_of_behavior(log, config)[usable].tolist()}) < 3:
        with pytest.raises(ValueError, match=r"target: (it needs|a history ends before|no behavior lies there)"):
            split_targets(log, config)
        return
    targets = split_targets(log, config)
    length = np.diff(log.user_start)[targets.user]
    where = place(log, targets.behavior)
    assert (where >= first).all() and (targets.history_end > log.user_start[targets.user]).all()
    assert targets.split.tolist() == [oracle.split_of(p, n) for p, n in zip(where.tolist(), length.tolist(), strict=True)]
    assert set(targets.candidate[:, 1:].reshape(-1).tolist()) <= set(log.item[training_period_mask(log, config)].tolist())
    assert np.unique(np.stack([targets.user, targets.split], axis=1), axis=0, return_counts=True)[1].max() <= 2


def test_a_split_by_time_cuts_all_users_at_the_same_moments() -> None:
    log = random_log(21, users=12, items=30)
    config = ProtocolConfig(split="time", first_target=1)
    split = split_of_behavior(log, config)
    newest = [log.timestamp[split == which].max() for which in (TRAIN, VALIDATION, TEST)]
    oldest = [log.timestamp[split == which].min() for which in (TRAIN, VALIDATION, TEST)]
    assert newest[0] < oldest[1] <= newest[1] < oldest[2]
    assert np.mean(split == TRAIN) == pytest.approx(0.7, abs=0.05)
    targets = split_targets(log, config)
    assert set(targets.candidate[:, 1:].reshape(-1).tolist()) <= set(log.item[log.timestamp < oldest[1]].tolist())


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of user, time, got 'week'"):
        ProtocolConfig(split="week")
