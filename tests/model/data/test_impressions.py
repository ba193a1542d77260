"""Logged impressions as targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.config import TrainConfig
from model.data.impressions import impression_targets
from model.data.log import InteractionLog
from model.data.protocol import TEST, TRAIN, VALIDATION, ProtocolConfig
from model.data.tidy import TidyDataError, read_tidy
from model.dataset import prepare

CONFIG = ProtocolConfig(first_target=2)
SECONDS = np.arange(100, 200, 10)


def folder(tmp_path: Path, impressions: list[tuple[object, object, object, object]], kind: type[pl.DataType] = pl.Int64) -> InteractionLog:
    """User 7 takes items 0 to 9 at 100, 110, ..., 190; user 8 item 0 at 100."""
    behaviors = [(7, n, int(second)) for n, second in enumerate(SECONDS)] + [(8, 0, 100)]
    pl.DataFrame(behaviors, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(tmp_path / "interactions.parquet")
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": kind, "label": pl.Int64}
    pl.DataFrame(impressions, schema=schema, orient="row").write_parquet(tmp_path / "impressions.parquet")
    return read_tidy(tmp_path)


GOOD = [(7, 3, 125, 1), (7, 4, 125, 0), (7, 5, 165, 0), (7, 6, 165, 0), (7, 9, 190, 1), (7, 1, 190, 1)]


def test_history_split_and_labels_are_those_of_the_log(tmp_path: Path) -> None:
    log = folder(tmp_path, GOOD)
    targets = impression_targets(tmp_path, log, CONFIG)
    assert targets.history_end.tolist() == [3, 7, 9], "the behavior at the impression's own second is not seen"
    assert targets.split.tolist() == [TRAIN, VALIDATION, TEST]
    assert targets.label.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert [[log.item_id[code] for code in row] for row in targets.candidate] == [["3", "4"], ["5", "6"], ["9", "1"]]
    assert targets.timestamp.tolist() == [125, 165, 190]
    assert targets.behavior.max() < 10


def test_the_split_is_the_protocols(tmp_path: Path) -> None:
    rows = [(7, 0, int(second) + 5, 1) for second in SECONDS] + [(7, 0, 10**9, 0)]
    targets = impression_targets(tmp_path, folder(tmp_path, rows), ProtocolConfig(first_target=2))
    by_history = dict(zip(targets.history_end.tolist(), targets.split.tolist(), strict=True))
    assert by_history == dict.fromkeys(range(2, 7), TRAIN) | {7: VALIDATION, 8: TEST, 9: TEST, 10: TEST}
    assert targets.history_end.min() == 2, "after fewer behaviors nothing is asked"


def test_groups_of_several_sizes_become_single_targets(tmp_path: Path) -> None:
    targets = impression_targets(tmp_path, folder(tmp_path, [*GOOD, (7, 2, 175, 1), (7, 2, 155, 1)]), CONFIG)
    assert targets.candidate.shape == (8, 1)
    assert targets.label.sum() == 5


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((9, 1, 150, 1), "user_id is not in the log: 9"),
        ((7, 77, 150, 1), "item_id is not in the log: 77"),
        ((7, None, 150, 1), "item_id is not in the log: missing"),
        ((7, 1, 150, 2), "label is not 0 or 1: 2"),
        ((7, 1, 150, None), "label is not 0 or 1: missing"),
        ((7, 1, -1, 1), "timestamp is no unix second: -1"),
        ((7, 1, None, 1), "timestamp is no unix second: missing"),
        ((7, 1, 2**32, 1), "timestamp is no unix second: 4294967296"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: tuple[object, object, object, object], reason: str) -> None:
    log = folder(tmp_path, [*GOOD, row])
    with pytest.raises(TidyDataError, match=f"impressions.parquet: row 7: {reason}"):
        impression_targets(tmp_path, log, CONFIG)


def test_a_fraction_of_a_second_is_refused(tmp_path: Path) -> None:
    log = folder(tmp_path, [(7, 1, 150.5, 1)], pl.Float64)
    with pytest.raises(TidyDataError, match=r"timestamp is no unix second: 150\.5"):
        impression_targets(tmp_path, log, CONFIG)


def test_a_missing_file_column_or_split_is_said(tmp_path: Path) -> None:
    log = folder(tmp_path, GOOD[:2])
    with pytest.raises(ValueError, match="no validation impression after 2 behaviors"):
        impression_targets(tmp_path, log, CONFIG)
    pl.DataFrame({"user_id": [7], "item_id": [1], "timestamp": [5]}).write_parquet(tmp_path / "impressions.parquet")
    with pytest.raises(TidyDataError, match="column 'label' is missing"):
        impression_targets(tmp_path, log, CONFIG)
    (tmp_path / "impressions.parquet").unlink()
    with pytest.raises(TidyDataError, match=r"impressions\.parquet is not there"):
        impression_targets(tmp_path, log, CONFIG)


def test_a_broken_file_or_a_split_by_time_is_refused(tmp_path: Path) -> None:
    log = folder(tmp_path, GOOD)
    with pytest.raises(ValueError, match="split 'time' cannot be joined with impressions"):
        impression_targets(tmp_path, log, replace(CONFIG, split="time"))
    (tmp_path / "impressions.parquet").write_bytes(b"no parquet")
    with pytest.raises(TidyDataError, match=r"impressions\.parquet: cannot be read"):
        impression_targets(tmp_path, log, CONFIG)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (GOOD, "all 2 validation rows have label 0"),
        ([(*row[:3], 1) for row in GOOD], "all 2 training rows have label 1: there is nothing to tell apart"),
        ([(7, 3, 115, 1), (7, 4, 115, 0), *GOOD[2:]], "all 2 validation rows"),
    ],
)
def test_labels_that_are_all_alike_are_refused(tmp_path: Path, rows: list[tuple[int, int, int, int]], reason: str) -> None:
    log = folder(tmp_path, [*rows])
    config = TrainConfig(protocol=CONFIG, taste_width=1)
    with pytest.raises(ValueError, match=reason):
        prepare(log, config, targets=impression_targets(tmp_path, log, CONFIG))


def test_labels_of_0_among_behaviors_are_sent_here(tmp_path: Path) -> None:
    behaviors = {"user_id": [7, 7], "item_id": [1, 2], "timestamp": [100, 110], "label": [1, 0]}
    pl.DataFrame(behaviors).write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(TidyDataError, match=r"1 rows have label 0.*impressions\.parquet"):
        read_tidy(tmp_path)
