"""Tmall `user_log_format1.csv` with its dirt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data.raw_log import RawDataError, ReadReport
from model.data.tidy import read_tidy
from model.data.tmall import second_of_day, write_tmall

HEADER = "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type"


def convert(tmp_path: Path, lines: list[str], **options: object) -> tuple[ReadReport, pl.DataFrame]:
    (tmp_path / "data_format1").mkdir(exist_ok=True)
    (tmp_path / "data_format1/user_log_format1.csv").write_text("\n".join(lines) + "\n")
    report = write_tmall(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert report.read == report.kept + sum(report.dropped.values()) == len(lines) - 1
    return report, pl.read_parquet(tmp_path / "out/interactions.parquet")


def test_the_day_is_four_digits_of_2014_in_china() -> None:
    days = second_of_day()
    assert len(days) == 365 and "0229" not in days
    assert np.datetime64(days["0511"] + 8 * 3600, "s") == np.datetime64("2014-05-11T00:00:00")
    assert np.datetime64(days["1112"] + 8 * 3600, "s") == np.datetime64("2014-11-12T00:00:00")


def test_days_are_sorted_and_the_order_within_a_day_is_kept(tmp_path: Path) -> None:
    lines = ["328862,30,833,2882,2661,0829,0", "328862,10,1271,2882,2661,0511,0", "7,1,2,3,,1112,0", "328862,20,1271,2882,2661,0829,0"]
    report, frame = convert(tmp_path, [HEADER, *lines, "328862,5,1271,2882,2661,0829,0"])
    mine = frame.filter(pl.col("user_id") == 328862)
    assert mine["item_id"].to_list() == [10, 30, 20, 5]
    days = second_of_day()
    assert mine["timestamp"].to_list() == [days["0511"], days["0829"], days["0829"], days["0829"]]
    assert report.written == {"behaviors": 5, "users": 2, "items": 5}
    log = read_tidy(tmp_path / "out")
    assert [log.item_id[code] for code in log.item[log.user_start[0] : log.user_start[1]]] == ["10", "30", "20", "5"]
    assert log.item_text["seller"][log.item_id.index("1")] == "3"
    assert log.item_text["brand"][log.item_id.index("1")] == ""


def test_equal_rows_of_a_day_are_separate_behaviors(tmp_path: Path) -> None:
    _, frame = convert(tmp_path, [HEADER, "1,2,3,4,5,0829,0", "1,2,3,4,5,0829,0"])
    assert len(frame) == 2


def test_actions_are_named(tmp_path: Path) -> None:
    lines = [HEADER, *(f"1,{action},3,4,5,0829,{action}" for action in "0123")]
    report, _ = convert(tmp_path, lines)
    assert report.dropped == {
        "action buy is not asked for": 1,
        "action cart is not asked for": 1,
        "action favourite is not asked for": 1,
    }
    _, frame = convert(tmp_path, lines, actions="click,cart,buy,favourite")
    assert frame["event"].to_list() == ["click", "cart", "buy", "favourite"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,3,4,5,829,0", "time_stamp is not a day of 2014 as MMDD: 829"),
        ("1,2,3,4,5,0229,0", "time_stamp is not a day of 2014 as MMDD: 0229"),
        ("1,2,3,4,5,1301,0", "time_stamp is not a day of 2014 as MMDD: 1301"),
        ("1,2,3,4,5,,0", "time_stamp is not a day of 2014 as MMDD: "),
        ("1,2,3,4,5,0829,4", "event is none of 0, 1, 2, 3: 4"),
        ("1,2,3,4,5,0829,", "event is none of 0, 1, 2, 3: "),
        ("1,2,3,4,5,0829", "7 fields are needed, the line has 6"),
        ("1,2,,4,5,0829,0", "cat_id is missing"),
        ("1,2,3,4,x,0829,0", "brand_id is not a whole number of 0 or more: x"),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, line: str, reason: str) -> None:
    lines = [HEADER, line, "1,2,3,4,5,0829,0"]
    with pytest.raises(RawDataError) as refused:
        convert(tmp_path, lines)
    assert f"user_log_format1.csv: row 2: {reason}" in str(refused.value)
    report, _ = convert(tmp_path, lines, skip_bad_rows=True)
    assert report.dropped == {"bad row": 1}


def test_the_other_layout_is_refused_by_name(tmp_path: Path) -> None:
    lines = ["user_id,age_range,gender,merchant_id,label,activity_log", "34176,6,0,944,-1,408895:1505:7370:1107:0"]
    with pytest.raises(RawDataError, match=r"layout of data_format2.*data_format1/user_log_format1\.csv"):
        convert(tmp_path, lines)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="column 'cat_id' is missing; columns are user_id,"):
        convert(tmp_path, [HEADER.replace("cat_id", "category"), "1,2,3,4,5,0829,0"])
    with pytest.raises(RawDataError, match="column 'user_id' is missing"):
        convert(tmp_path, ["1,2,3,4,5,0829,0", "1,2,3,4,5,0829,0"])
