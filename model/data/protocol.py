"""From a log to targets: split by each user's own time, history before the session, negatives as popular as positives (docs/model.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from model.data.log import InteractionLog
from model.field_types import check_fields

I64 = npt.NDArray[np.int64]
TRAIN, VALIDATION, TEST = 0, 1, 2
NEGATIVES = ("popularity", "paper", "trailing")
SPLITS = ("user", "time")
_TRAILING_S = 30 * 86_400


@dataclass(frozen=True, slots=True)
class ProtocolConfig:
    """How targets are chosen. `*_targets` per user, None for all of them; `first_target` behaviors of a user are never targets.

    `negative_rule` "popularity" draws from the multiset of all training-period behaviors and excludes nothing. "paper" redraws items
    that the user ever consumed, as published; where people buy again that leaks the label. "trailing" draws from the behaviors of all users
    in the 30 days before the target's time, so that negatives are as much in season as positives.
    `split` "user" cuts each user's own behaviors by their place, so a model has seen others' later behaviors; "time" cuts all users at
    the same two moments, as a deployed model is cut.
    """

    seed: int = 0
    train_targets: int | None = None
    validation_targets: int | None = 3
    test_targets: int | None = 12
    first_target: int = 50
    negatives: int = 2
    negative_rule: str = "popularity"
    split: str = "user"
    train_share: float = 0.7
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        if self.negative_rule not in NEGATIVES:
            raise ValueError(f"negative_rule must be one of {', '.join(NEGATIVES)}, got {self.negative_rule!r}")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.negatives < 1:
            raise ValueError(f"negatives must be at least 1, got {self.negatives!r}")
        for name in ("seed", "first_target"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        for name in ("train_targets", "validation_targets", "test_targets"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None for all, got {value!r}")
        for name in ("train_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")
        if self.train_share + self.validation_share >= 1:
            raise ValueError(f"train_share {self.train_share!r} and validation_share {self.validation_share!r} leave nothing to test on")


@dataclass(frozen=True, slots=True)
class Targets:
    """T targets with C candidates each; candidate 0 is the behavior itself (label 1), the others are drawn (label 0).

    `user` i64 [T]; `behavior` i64 [T] the behavior's index in the log; `history_end` i64 [T] the first index the target must not see;
    `timestamp` i64 [T]; `candidate` i32 [T, C] item codes; `label` f32 [T, C]; `split` i8 [T] TRAIN, VALIDATION or TEST. Sorted by behavior
    within each split.
    """

    user: I64
    behavior: I64
    history_end: I64
    timestamp: I64
    candidate: npt.NDArray[np.int32]
    label: npt.NDArray[np.float32]
    split: npt.NDArray[np.int8]

    def digest(self) -> str:
        """Hash of what is asked about which behaviors: 32 hex digits; drawn targets and logged impressions of one log differ by it."""
        state = xxhash.xxh3_128()
        for array in (self.behavior, self.history_end, self.timestamp, self.candidate, self.label, self.split):
            state.update(np.ascontiguousarray(array).data)
            state.update(b"|")
        return state.hexdigest()


def split_of_behavior(log: InteractionLog, config: ProtocolConfig) -> npt.NDArray[np.int8]:
    """TRAIN, VALIDATION or TEST for every behavior, by its place among its user's behaviors, or by its time among all: i8 [E]."""
    shares = (config.train_share, config.train_share + config.validation_share)
    if config.split == "time":
        first, second = np.quantile(log.timestamp, shares, method="lower") if log.num_behaviors else (0, 0)
        return np.where(log.timestamp < first, TRAIN, np.where(log.timestamp < second, VALIDATION, TEST)).astype(np.int8)
    length = np.repeat(np.diff(log.user_start), np.diff(log.user_start))
    place = np.arange(log.num_behaviors) - np.repeat(log.user_start[:-1], np.diff(log.user_start))
    # .7 * 90 is 62.99999999999999 in floats: without the margin a behavior of the training period would become a validation target.
    train_end, validation_end = (np.floor(share * length + 1e-9) for share in shares)
    return np.where(place < train_end, TRAIN, np.where(place < validation_end, VALIDATION, TEST)).astype(np.int8)


def place_of_behavior(log: InteractionLog, config: ProtocolConfig) -> npt.NDArray[np.float64]:
    """Share of its user's behaviors, or of all where the split is by time, that come before each behavior: f64 [E], 0..1."""
    if config.split == "time":
        return np.searchsorted(np.sort(log.timestamp), log.timestamp) / max(log.num_behaviors, 1)
    length = np.repeat(np.diff(log.user_start), np.diff(log.user_start))
    place: npt.NDArray[np.float64] = (np.arange(log.num_behaviors) - np.repeat(log.user_start[:-1], np.diff(log.user_start))) / length
    return place


def training_period_mask(log: InteractionLog, config: ProtocolConfig) -> npt.NDArray[np.bool_]:
    """Behaviors of the training period, the only source of vocabularies, popularity and negatives: bool [E]."""
    known: npt.NDArray[np.bool_] = split_of_behavior(log, config) == TRAIN
    return known


def history_end(log: InteractionLog) -> I64:
    """For every behavior, the index its history ends at: before its session and before its own second. i64 [E]."""
    index = np.arange(log.num_behaviors, dtype=np.int64)
    first_of_session = np.full(int(log.session.max(initial=-1)) + 1, log.num_behaviors, dtype=np.int64)
    np.minimum.at(first_of_session, log.session, index)
    user = log.user_of_behavior()
    new_second = np.ones(log.num_behaviors, dtype=bool)
    new_second[1:] = (user[1:] != user[:-1]) | (log.timestamp[1:] != log.timestamp[:-1])
    first_of_second = np.maximum.accumulate(np.where(new_second, index, 0))
    end = np.minimum(first_of_session[log.session], first_of_second)
    # A session may have begun long before with other sessions in between: all of them stay hidden, as they would to a frozen session.
    return np.maximum(end, log.user_start[user])


def split_targets(log: InteractionLog, config: ProtocolConfig) -> Targets:
    """Targets of all three splits, deterministic per seed; the test rows do not depend on how many training targets are asked for.

    Raises: ValueError when some split has no target, with the reason.
    """
    split = split_of_behavior(log, config)
    end = history_end(log)
    user = log.user_of_behavior()
    place = np.arange(log.num_behaviors) - log.user_start[user]
    usable = (place >= config.first_target) & (end > log.user_start[user])
    pool = log.item[split == TRAIN]
    parts: list[tuple[I64, npt.NDArray[np.int32]]] = []
    for which, per_user in ((TRAIN, config.train_targets), (VALIDATION, config.validation_targets), (TEST, config.test_targets)):
        rng = np.random.default_rng([config.seed, which])
        behavior = np.flatnonzero(usable & (split == which))
        if len(behavior) == 0:
            raise ValueError(f"no {('training', 'validation', 'test')[which]} target: {_why_none(log, config, split == which, place)}")
        behavior = _sample_per_user(behavior, user[behavior], per_user, rng)
        parts.append((behavior, _negatives(log, behavior, user[behavior], pool, config, rng)))
    behavior = np.concatenate([behavior for behavior, _ in parts])
    candidate = np.concatenate([np.concatenate([log.item[behavior][:, None], drawn], axis=1) for behavior, drawn in parts])
    label = np.zeros(candidate.shape, dtype=np.float32)
    label[:, 0] = 1.0
    return Targets(
        user=user[behavior],
        behavior=behavior,
        history_end=end[behavior],
        timestamp=log.timestamp[behavior],
        candidate=candidate,
        label=label,
        split=split[behavior],
    )


def _why_none(log: InteractionLog, config: ProtocolConfig, of_split: npt.NDArray[np.bool_], place: I64) -> str:
    users = f"the longest of {log.num_users} users has {int(np.diff(log.user_start).max(initial=0))} in all"
    late = of_split & (place >= config.first_target)
    if late.any():
        return (
            f"a history ends before its target's session and second, and nothing is left of it for any of {int(late.sum())} behaviors; "
            "do a user's behaviors all have one session_id or one timestamp?"
        )
    if of_split.any() or place.max(initial=0) < config.first_target:
        hint = "; protocol.first_target says how many (`dare train --set protocol.first_target=1`)" if config.first_target > 1 else ""
        return f"it needs {max(config.first_target, 1)} earlier behaviors of its user; {users}{hint}"
    first, second = config.train_share, config.train_share + config.validation_share
    by_time = config.split == "time"
    hint = "" if by_time else '; protocol.split "time" (`dare train --split time`) cuts all users at the same moments'
    return (
        f"no behavior lies there: of {'all behaviors' if by_time else 'a user'} the first {first:.0%} are for training, those up to "
        f"{second:.0%} for validation, the rest for the test; {users}{hint}"
    )


def _sample_per_user(behavior: I64, user: I64, per_user: int | None, rng: np.random.Generator) -> I64:
    if per_user is None:
        return behavior
    order = np.lexsort((rng.random(len(behavior)), user))
    sorted_user = user[order]
    rank = np.arange(len(behavior)) - np.searchsorted(sorted_user, sorted_user)
    return np.sort(behavior[order[rank < per_user]])


def _negatives(
    log: InteractionLog, behavior: I64, user: I64, pool: npt.NDArray[np.int32], config: ProtocolConfig, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    if config.negative_rule == "trailing":
        return _trailing(log, behavior, pool, config.negatives, rng)
    drawn = pool[rng.integers(0, len(pool), (len(behavior), config.negatives))]
    if config.negative_rule == "popularity":
        return drawn
    num_items = len(log.item_id)
    consumed = np.unique(log.user_of_behavior() * num_items + log.item)
    for _ in range(100):
        taken = np.isin(user[:, None] * num_items + drawn, consumed)
        if not taken.any():
            return drawn
        drawn[taken] = pool[rng.integers(0, len(pool), int(taken.sum()))]
    raise ValueError("negative_rule 'paper': some user has consumed nearly everything; no item is left to draw")


def _trailing(
    log: InteractionLog, behavior: I64, pool: npt.NDArray[np.int32], negatives: int, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    by_time = np.argsort(log.timestamp, kind="stable")
    time = log.timestamp[by_time]
    end = np.searchsorted(time, log.timestamp[behavior])
    start = np.searchsorted(time, log.timestamp[behavior] - _TRAILING_S)
    place = start[:, None] + np.floor(rng.random((len(behavior), negatives)) * (end - start)[:, None]).astype(np.int64)
    drawn = log.item[by_time[np.minimum(place, len(time) - 1)]]
    # Nobody did anything in the 30 days before: the training period's behaviors, as in the other rule.
    other = pool[rng.integers(0, len(pool), drawn.shape)]
    return np.where((end > start)[:, None], drawn, other)
