"""What search should have found: the kept behaviors against the known relevance of synthetic data (docs/data.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data.log import InteractionLog
from model.item_hash import hash_item_ids
from model.metrics import auc, log_loss
from model.runtime import ScoringRuntime

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Quality = dict[str, float | int]
RULES = ("oracle", "newest same category", "newest", "random")


class Judge(Protocol):
    """What each behavior before a test candidate is worth: known relevance, or mutual information where none is known.

    n candidates, sorted by (user, position); those of one moment (user, position) follow one another. `position` counts the behaviors
    before the candidate.
    """

    @property
    def user(self) -> I64: ...
    @property
    def position(self) -> I64: ...
    @property
    def item(self) -> I64: ...
    @property
    def timestamp(self) -> I64: ...
    @property
    def label(self) -> F64: ...

    def dense(self, rows: slice) -> F64:
        """Worth of every behavior before the moment `rows`: f64 [candidates, position]."""


def moments(judge: Judge) -> Iterator[slice]:
    """The candidates of one user at one position, moment by moment."""
    new = np.ones(len(judge.user), dtype=bool)
    new[1:] = (judge.user[1:] != judge.user[:-1]) | (judge.position[1:] != judge.position[:-1])
    edges = np.append(np.flatnonzero(new), len(judge.user))
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        yield slice(int(first), int(last))


class TruthError(ValueError):
    """The folder has no truth, or it is not of this log."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Targets of the test split with their relevance.

    `user` i64 [n] codes of the log; `position` i64 [n] behaviors before the target; `item` i64 [n] codes; `timestamp` i64 [n]; `label`,
    `probability`, `total` f64 [n]. The relevances of target i are `place[start[i]:start[i + 1]]` (i64, positions in the user's history) and
    `relevance` (f64). Sorted by (user, position); targets of one moment follow one another.
    """

    user: I64
    position: I64
    item: I64
    timestamp: I64
    label: F64
    probability: F64
    start: I64
    place: I64
    relevance: F64

    @classmethod
    def read(cls, folder: Path, log: InteractionLog, first_share: float) -> Truth:
        """The targets whose history holds at least `first_share` of their user's behaviors.

        Raises: TruthError without `truth/`, for users or items unknown to the log, or with no such target.
        """
        try:
            target = pl.read_parquet(folder / "truth/targets.parquet").with_columns(pl.col("user_id", "item_id").cast(pl.String))
            relevance = pl.read_parquet(folder / "truth/relevance.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise TruthError(f"{folder}: no known relevance, it needs data of `dare data synthetic`: {error}") from error
        length = np.diff(log.user_start)
        for name, ids in (("user", log.user_id), ("item", log.item_id)):
            code = pl.DataFrame({f"{name}_id": ids, name: np.arange(len(ids), dtype=np.int64)}, schema_overrides={f"{name}_id": pl.String})
            target = target.join(code, on=f"{name}_id", how="left")
            if target[name].null_count():
                raise TruthError(f"{folder}: the truth has {target[name].null_count()} targets whose {name} is not in the log")
        target = target.filter(pl.col("position") >= first_share * pl.Series(length)[target["user"]]).sort("user", "position", "target")
        if len(target) == 0:
            raise TruthError(f"{folder}: no target has {first_share:.0%} of its user's behaviors before it")
        place = pl.DataFrame({"target": target["target"], "row": np.arange(len(target))})
        relevance = relevance.join(place, on="target").sort("row", "position")
        row = relevance["row"].to_numpy()
        return cls(
            user=target["user"].to_numpy(),
            position=target["position"].to_numpy().astype(np.int64),
            item=target["item"].to_numpy(),
            timestamp=target["timestamp"].to_numpy(),
            label=target["label"].to_numpy().astype(np.float64),
            probability=target["probability"].to_numpy(),
            start=np.searchsorted(row, np.arange(len(target) + 1)),
            place=relevance["position"].to_numpy().astype(np.int64),
            relevance=relevance["relevance"].to_numpy().astype(np.float64),
        )

    def dense(self, rows: slice) -> F64:
        """Relevance of every behavior before the moment: f64 [targets, position]."""
        out = np.zeros((rows.stop - rows.start, int(self.position[rows.start])))
        first, last = self.start[rows.start], self.start[rows.stop]
        owner = np.repeat(np.arange(len(out)), np.diff(self.start[rows.start : rows.stop + 1]))
        out[owner, self.place[first:last]] = self.relevance[first:last]
        return out


class Tally:
    """Gains of what was kept, target by target: `add` in the order of the targets, then `quality`."""

    def __init__(self, label: F64, kept: int) -> None:
        self._label = label
        self._discount = 1 / np.log2(np.arange(2, kept + 2))
        self._mass, self._best, self._dcg, self._ideal = ([] for _ in range(4))  # type: tuple[list[F64], list[F64], list[F64], list[F64]]

    def add(self, relevance_NL: F64, index_NK: npt.NDArray[np.integer]) -> None:
        """Behaviors kept for the N targets of one moment, best first; -1 where fewer were kept."""
        gain = np.where(index_NK >= 0, np.take_along_axis(relevance_NL, np.maximum(index_NK, 0).astype(np.int64), axis=1), 0.0)
        size = min(len(self._discount), relevance_NL.shape[1])
        best = -np.sort(-relevance_NL, axis=1)[:, :size]
        self._mass.append(gain.sum(axis=1))
        self._best.append(best.sum(axis=1))
        self._dcg.append(gain @ self._discount[: gain.shape[1]])
        self._ideal.append(best @ self._discount[:size])

    def quality(self) -> Quality:
        """`recall`: mass kept over the most that K behaviors can hold, mean over targets with any relevance; `ndcg` likewise with relevance
        as gain; `auc_of_kept`: AUC of the relevance kept against the labels.

        Raises: ValueError when no target has any.
        """
        mass, best, dcg, ideal = (np.concatenate(part) for part in (self._mass, self._best, self._dcg, self._ideal))
        some = best > 0
        if not some.any():
            raise ValueError(f"nothing before any of the {len(best)} test candidates is worth anything")
        return {
            "recall": float((mass[some] / best[some]).mean()),
            "ndcg": float((dcg[some] / ideal[some]).mean()),
            "auc_of_kept": auc(self._label, mass),
        }


def rules(judge: Judge, log: InteractionLog, kept: int, seed: int = 0) -> dict[str, Quality]:
    """Quality of rules that need no model.

    "oracle" keeps the greatest worth; "newest same category" is hard search; "random" is drawn with `seed`.
    """
    rng = np.random.default_rng(seed)
    tallies = {rule: Tally(judge.label, kept) for rule in RULES}
    for rows in moments(judge):
        worth = judge.dense(rows)
        targets, length = worth.shape
        start, size = log.user_start[judge.user[rows.start]], min(kept, length)
        newest = np.tile(np.arange(length - 1, length - 1 - size, -1), (targets, 1))
        category = log.item_category[log.item[start : start + length]]
        same = np.full((targets, kept), -1)
        for i, wanted in enumerate(log.item_category[judge.item[rows]]):
            found = np.flatnonzero((category == wanted) & (wanted >= 0))[: -kept - 1 : -1]
            same[i, : len(found)] = found
        tallies["oracle"].add(worth, np.argsort(-worth, axis=1, kind="stable")[:, :size])
        tallies["newest same category"].add(worth, same)
        tallies["newest"].add(worth, newest)
        tallies["random"].add(worth, rng.permuted(np.tile(np.arange(length), (targets, 1)), axis=1)[:, :size])
    return {rule: tally.quality() for rule, tally in tallies.items()}


def bounds(truth: Truth, log: InteractionLog, kept: int, seed: int = 0) -> dict[str, Quality]:
    """`rules` by known relevance, and under "truth" the AUC of the true probability."""
    relevant = len(truth.relevance) / float(truth.position.sum())
    first: dict[str, Quality] = {
        "truth": {"auc": auc(truth.label, truth.probability), "relevant_share": relevant, "targets": len(truth.user)}
    }
    return first | rules(truth, log, kept, seed)


def runtime_quality(
    runtime: ScoringRuntime, judge: Judge, log: InteractionLog, report: Callable[[int, int], None] = lambda done, of: None
) -> Quality:
    """Quality of a model's search as it is served, and the AUC and log loss of its click probabilities against the labels.

    Args: `report` is called with (targets done, of all).
    """
    item_hash = hash_item_ids(log.item_id)
    tally = Tally(judge.label, runtime.max_kept)
    probability = np.zeros(len(judge.user))
    user, place, state = -1, 0, runtime.prepare(item_hash[:0], log.timestamp[:0])
    for rows in moments(judge):
        start = int(log.user_start[judge.user[rows.start]])
        if judge.user[rows.start] != user:
            user, place = int(judge.user[rows.start]), start
            state = runtime.prepare(item_hash[:0], log.timestamp[:0])
        end = start + int(judge.position[rows.start])
        state = runtime.extend(state, item_hash[log.item[place:end]], log.timestamp[place:end])
        place = end
        scored = runtime.score(state, item_hash[judge.item[rows]], int(judge.timestamp[rows.start]), explain=runtime.max_kept)
        assert scored.kept is not None
        probability[rows] = scored.click_probability_N
        # A model that reads only the newest behaviors counts positions from where its sequence begins.
        left_out = end - start - state.length
        index = scored.kept.index_NE
        tally.add(judge.dense(rows), np.where(index >= 0, index + left_out, -1))
        report(rows.stop, len(judge.user))
    figures = {"auc": auc(judge.label, probability), "log_loss": log_loss(judge.label, probability)}
    return tally.quality() | figures
