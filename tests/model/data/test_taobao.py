"""Taobao `UserBehavior.csv` with its dirt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data import raw_log, tidy_writer
from model.data.raw_log import RawDataError, ReadReport
from model.data.taobao import WINDOW, write_taobao
from model.data.tidy import read_tidy

FIRST, END = WINDOW
CLEAN = ["1,2268318,2520377,pv,1511544070", "1,2333346,2520771,pv,1511561733", "100,1,7,pv,1511600000"]


def convert(tmp_path: Path, content: bytes | list[str], **options: object) -> tuple[ReadReport, pl.DataFrame]:
    source = tmp_path / "UserBehavior.csv"
    source.write_bytes(content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode())
    report = write_taobao(source, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert report.read == report.kept + sum(report.dropped.values()), "every row is accounted for"
    frame = pl.read_parquet(tmp_path / "out/interactions.parquet")
    assert len(frame) == report.kept
    return report, frame


def test_the_window_is_nine_days_of_utc_plus_8() -> None:
    assert np.datetime64(FIRST + 8 * 3600, "s") == np.datetime64("2017-11-25T00:00:00")
    assert np.datetime64(END + 8 * 3600, "s") == np.datetime64("2017-12-04T00:00:00")


def test_a_clean_file_becomes_a_tidy_folder(tmp_path: Path) -> None:
    report, frame = convert(tmp_path, CLEAN)
    assert frame.rows() == [
        (1, 2268318, 2520377, "pv", 1511544070),
        (1, 2333346, 2520771, "pv", 1511561733),
        (100, 1, 7, "pv", 1511600000),
    ]
    assert report.written == {"behaviors": 3, "users": 2, "items": 3}
    log = read_tidy(tmp_path / "out")
    assert (log.num_behaviors, log.user_id, sorted(log.category_id)) == (3, ["1", "100"], ["2520377", "2520771", "7"])


def test_times_outside_the_nine_days_are_dropped_and_counted(tmp_path: Path) -> None:
    times = [FIRST - 1, FIRST, END - 1, END, -2134949234, 2122867355, 0]
    report, frame = convert(tmp_path, [f"1,{n},3,pv,{time}" for n, time in enumerate(times)])
    assert frame["timestamp"].to_list() == [FIRST, END - 1]
    assert report.dropped == {"outside 2017-11-25..2017-12-03 (UTC+8)": 5}


def test_only_exact_duplicates_are_dropped(tmp_path: Path) -> None:
    row = f"1,2,3,pv,{FIRST}"
    near = [f"1,2,3,pv,{FIRST + 1}", f"1,9,3,pv,{FIRST}", f"2,2,3,pv,{FIRST}", f"1,2,3,buy,{FIRST}", f"1,2,4,pv,{FIRST}"]
    report, frame = convert(tmp_path, [row, *near, row, row], actions="pv,buy")
    assert report.dropped == {"exact duplicate": 2}
    assert len(frame) == 6


def test_actions_are_chosen_by_name(tmp_path: Path) -> None:
    lines = [f"1,{n},3,{action},{FIRST + n}" for n, action in enumerate(["pv", "buy", "cart", "fav", "buy"])]
    report, frame = convert(tmp_path, lines)
    assert frame["event"].to_list() == ["pv"]
    assert report.dropped == {"action buy is not asked for": 2, "action cart is not asked for": 1, "action fav is not asked for": 1}
    report, frame = convert(tmp_path, lines, actions="buy, fav")
    assert frame["event"].to_list() == ["buy", "fav", "buy"]
    for wrong in ("pv,click", "", " , "):
        with pytest.raises(ValueError, match="actions: "):
            convert(tmp_path, lines, actions=wrong)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "the line is empty"),
        (f"1,2,3,pv,{FIRST},9", "5 fields are needed, the line has 6"),
        ("1,2,3,pv", "5 fields are needed, the line has 4"),
        (f"x1,2,3,pv,{FIRST}", "user_id is not a whole number of 0 or more: x1"),
        (f",2,3,pv,{FIRST}", "user_id is missing"),
        (f"1,,3,pv,{FIRST}", "item_id is missing"),
        (f"1,2,,pv,{FIRST}", "category_id is missing"),
        (f"1,2,3,,{FIRST}", "event is none of pv, buy, cart, fav: "),
        (f"1,2,3,PV,{FIRST}", "event is none of pv, buy, cart, fav: PV"),
        ("1,2,3,pv,", "timestamp is missing"),
        ("1,2,3,pv,1511544070.5", "timestamp is not a whole number: 1511544070.5"),
        ("1,2,3,pv,nan", "timestamp is not a whole number: nan"),
        (f"1,-2,3,pv,{FIRST}", "item_id is not a whole number of 0 or more: -2"),
        (f"1,99999999999999999999,3,pv,{FIRST}", "item_id is not a whole number of 0 or more: 99999999999999999999"),
        (f'"1",2,3,pv,{FIRST}', 'user_id is not a whole number of 0 or more: "1"'),
        (f"1,2\x00,3,pv,{FIRST}", "item_id is not a whole number of 0 or more: 2"),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, line: str, reason: str) -> None:
    lines = [CLEAN[0], line, *CLEAN[1:]]
    with pytest.raises(RawDataError) as refused:
        convert(tmp_path, lines)
    assert f"UserBehavior.csv: row 2: {reason}" in str(refused.value)
    assert "--skip-bad-rows" in str(refused.value)
    assert not list((tmp_path / "out").iterdir()), "nothing half-written is left"
    report, frame = convert(tmp_path, lines, skip_bad_rows=True)
    assert len(frame) == 3
    assert report.dropped == {"bad row": 1}
    assert report.bad_rows[0].startswith(f"UserBehavior.csv: row 2: {reason}")


def test_line_ends_and_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    _, plain = convert(tmp_path, CLEAN)
    _, windows = convert(tmp_path, b"\xef\xbb\xbf" + "\r\n".join([*CLEAN, ""]).encode())
    assert windows.equals(plain)


def test_bytes_that_are_no_text_are_one_bad_row(tmp_path: Path) -> None:
    report, frame = convert(tmp_path, b"1,\xff\xfe,3,pv,1511544070\n" + CLEAN[0].encode() + b"\n", skip_bad_rows=True)
    assert len(frame) == 1
    assert report.bad_rows[0].startswith("UserBehavior.csv: row 1: item_id is not a whole number")


def test_a_cut_off_last_line_is_said(tmp_path: Path) -> None:
    whole = "\n".join(CLEAN).encode()
    report, frame = convert(tmp_path, whole)
    assert len(frame) == 3
    assert report.notes == ["the last line of UserBehavior.csv has no line end: the file may be cut off"]
    with pytest.raises(RawDataError, match="row 3: 5 fields are needed, the line has 4"):
        convert(tmp_path, whole[: whole.rfind(b",")])


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"PK\x03\x04rest", "zip archive"), (b"\x1f\x8b\x08rest", "gzip archive")]
)
def test_an_empty_or_packed_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(RawDataError, match=message):
        convert(tmp_path, content)


def test_a_file_with_nothing_to_keep_says_why(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match=r"no behavior is left of 1 rows: .*outside 2017"):
        convert(tmp_path, ["1,2,3,pv,5"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RawDataError, match=r"holds no UserBehavior\.csv"):
        write_taobao(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(RawDataError, match="no such file"):
        write_taobao(tmp_path / "nowhere.csv", tmp_path / "out")


def test_pieces_and_buckets_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow obvious reading of the same random file, whatever the size of pieces (even below a line) and buckets."""
    rng = np.random.default_rng(0)
    size = 900
    columns = (
        rng.integers(0, 40, size),
        rng.integers(0, 50, size),
        rng.integers(0, 4, size),
        rng.choice(["pv", "buy"], size, p=[0.8, 0.2]),
        rng.integers(FIRST - 20, FIRST + 400, size),
    )
    rows = [tuple(row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    expected = list(dict.fromkeys(row for row in rows if row[3] == "pv" and row[4] >= FIRST))
    expected.sort(key=lambda row: (row[0], row[4]))
    for piece, bucket in ((1 << 20, 1 << 20), (1000, 3000), (17, 9000)):
        monkeypatch.setattr(raw_log, "PIECE_BYTES", piece)
        monkeypatch.setattr(tidy_writer, "BUCKET_BYTES", bucket)
        _, frame = convert(tmp_path, [",".join(map(str, row)) for row in rows])
        users = frame["user_id"].to_list()
        assert len(set(users)) == sum(1 for a, b in zip([None, *users], users, strict=False) if a != b), "a user is one run"
        assert frame.sort("user_id", maintain_order=True).rows() == expected


def test_row_numbers_count_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_log, "PIECE_BYTES", 100)
    lines = [f"1,{n},3,pv,{FIRST + n}" for n in range(50)]
    lines[37] = "broken"
    report, _ = convert(tmp_path, lines, skip_bad_rows=True)
    assert report.bad_rows == ["UserBehavior.csv: row 38: 5 fields are needed, the line has 1"]


@pytest.mark.parametrize("fold", [1, 2, 8])
def test_the_newest_category_of_an_item_counts_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold: int) -> None:
    monkeypatch.setattr(tidy_writer, "FOLD", fold)
    monkeypatch.setattr(tidy_writer, "ROW_GROUP", 1)
    lines = [f"1,5,10,pv,{FIRST + 9}", f"2,5,20,pv,{FIRST + 3}", f"2,6,20,pv,{FIRST + 4}"]
    report, _ = convert(tmp_path, lines)
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items.rows() == [(5, 10), (6, 20)]
    assert report.notes == ["1 items had more than one category; the newest behavior's is kept"]
