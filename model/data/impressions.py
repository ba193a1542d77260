"""Logged impressions as targets: what was offered to a user, when, and whether it was taken (docs/data.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, VALIDATION, ProtocolConfig, Targets
from model.data.tidy import LAST_TIMESTAMP, TidyDataError, read_columns

FILE = "impressions.parquet"
COLUMNS = ("user_id", "item_id", "timestamp", "label")


def impression_targets(folder: Path, log: InteractionLog, config: ProtocolConfig) -> Targets:
    """Targets of `impressions.parquet` (user_id, item_id, timestamp in unix seconds, label 0 or 1), in place of drawn ones.

    A target's history is the user's behaviors before the impression's own second; the split is the protocol's, by the share of the user's
    behaviors that the history holds, and impressions after fewer than `first_target` behaviors are left out. Nothing is drawn: all of the
    rows are used, with the labels that were logged. Impressions of one user and second share a target when all such groups are of one
    size; otherwise each is a target of its own.

    Raises: TidyDataError for a missing file or column, a bad row, or a user or item that the log does not know; ValueError when a split is
    left without targets, and for a split by time.
    """
    if config.split != "user":
        raise ValueError(f"split {config.split!r} cannot be joined with impressions: they are split by each user's own behaviors")
    path = folder / FILE
    if not path.is_file():
        raise TidyDataError(f"{folder}: {FILE} is not there")
    frame = _coded(read_columns(path, COLUMNS, ()), log, path)
    user, item = frame["user"].to_numpy().astype(np.int64), frame["item"].to_numpy().astype(np.int32)
    second, label = frame["timestamp"].to_numpy().astype(np.int64), frame["label"].to_numpy().astype(np.float32)

    span = np.int64(LAST_TIMESTAMP) + 1
    end = np.searchsorted(log.user_of_behavior() * span + log.timestamp, user * span + second, side="left")
    place = end - log.user_start[user]
    length = np.diff(log.user_start)[user]
    # The protocol's own bounds on a behavior's place (see protocol.split_of_behavior for the margin).
    train_end = np.floor(config.train_share * length + 1e-9)
    validation_end = np.floor((config.train_share + config.validation_share) * length + 1e-9)
    split = np.where(place < train_end, TRAIN, np.where(place < validation_end, VALIDATION, TEST)).astype(np.int8)
    usable = place >= max(config.first_target, 1)
    for which, name in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (usable & (split == which)).any():
            raise ValueError(f"{path}: no {name} impression after {config.first_target} behaviors of its user (protocol.first_target)")

    order = np.lexsort((np.arange(len(user)), second, user, split))
    order = order[usable[order]]
    group = _group_size(user[order], second[order])
    rows = order.reshape(-1, group)
    first = rows[:, 0]
    return Targets(
        user=user[first],
        behavior=np.minimum(end[first], log.user_start[user[first] + 1] - 1),
        history_end=end[first],
        timestamp=second[first],
        candidate=item[rows],
        label=label[rows],
        split=split[first],
    )


def _coded(frame: pl.DataFrame, log: InteractionLog, path: Path) -> pl.DataFrame:
    number = pl.col("timestamp").cast(pl.Float64, strict=False)
    label = pl.col("label").cast(pl.Float64, strict=False)
    for name, ids in (("user", log.user_id), ("item", log.item_id)):
        table = pl.DataFrame({f"{name}_id": ids, name: np.arange(len(ids), dtype=np.int64)}, schema_overrides={f"{name}_id": pl.String})
        frame = frame.with_columns(pl.col(f"{name}_id").cast(pl.String)).join(table, on=f"{name}_id", how="left", maintain_order="left")
    reason = frame.select(
        pl.coalesce(
            *(
                pl.when(pl.col(name).is_null()).then(pl.lit(f"{name}_id is not in the log: ") + pl.col(f"{name}_id").fill_null("missing"))
                for name in ("user", "item")
            ),
            pl.when(number.is_null() | ~number.is_between(0, LAST_TIMESTAMP) | (number != number.floor())).then(
                pl.lit("timestamp is no unix second: ") + pl.col("timestamp").cast(pl.String).fill_null("missing")
            ),
            pl.when(~label.is_in([0.0, 1.0]).fill_null(False)).then(
                pl.lit("label is not 0 or 1: ") + pl.col("label").cast(pl.String).fill_null("missing")
            ),
        ).alias("reason")
    )["reason"]
    bad = reason.is_not_null().arg_true()
    if len(bad):
        lines = [f"{path.name}: row {row + 1}: {reason[row]}" for row in bad[:5].to_list()]
        raise TidyDataError("; ".join(lines) + (f" (and {len(bad) - 5} more)" if len(bad) > 5 else ""))
    return frame


def _group_size(user: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> int:
    """Size of the runs of equal (user, second) when all are of one size, else 1."""
    new = np.ones(len(user), dtype=bool)
    new[1:] = (user[1:] != user[:-1]) | (second[1:] != second[:-1])
    size = np.diff(np.flatnonzero(new), append=len(user))
    return int(size[0]) if (size == size[0]).all() else 1
