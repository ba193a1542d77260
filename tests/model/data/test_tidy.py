"""Folders in the tidy format: read exactly, or refused with file, row and reason; nothing is dropped silently."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model.data.log import InteractionLog
from model.data.protocol import ProtocolConfig, split_targets
from model.data.tidy import TidyDataError, read_tidy

GOOD: dict[str, list[Any]] = {"user_id": ["b", "a", "a", "b"], "item_id": ["x", "y", "x", "z"], "timestamp": [30, 20, 10, 30]}


def parquet(folder: Path, stem: str = "interactions", **columns: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns or GOOD, strict=False).write_parquet(folder / f"{stem}.parquet")
    return folder


def csv(folder: Path, text: str, name: str = "interactions.csv.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    return folder


def behaviors(log: InteractionLog) -> list[tuple[str, str, int]]:
    """(user, item, timestamp) in the log's order."""
    rows = zip(log.user_of_behavior().tolist(), log.item.tolist(), log.timestamp.tolist(), strict=True)
    return [(log.user_id[user], log.item_id[item], time) for user, item, time in rows]


SORTED = [("a", "x", 10), ("a", "y", 20), ("b", "x", 30), ("b", "z", 30)]


def test_users_come_one_after_the_other_oldest_first_ties_by_place_in_the_file(tmp_path: Path) -> None:
    log = read_tidy(parquet(tmp_path))
    assert behaviors(log) == SORTED
    assert log.user_start.tolist() == [0, 2, 4] and log.item.dtype == np.int32 and log.timestamp.dtype == np.int64
    assert log.category_id == [] and log.item_category.tolist() == [-1, -1, -1] and log.item_text == {} and log.skipped == ()
    assert len(set(log.session.tolist())) == 4, "without sessions each behavior stands alone"


@pytest.mark.parametrize("name", ["interactions.csv.gz", "interactions.csv"])
def test_csv_is_read_like_parquet_and_keeps_leading_zeros(tmp_path: Path, name: str) -> None:
    text = "user_id,item_id,timestamp\nb,x,30\na,y,20\na,x,10\nb,z,30\n"
    assert behaviors(read_tidy(csv(tmp_path, text, name))) == SORTED
    zeros = read_tidy(csv(tmp_path, "timestamp,item_id,user_id,other\n5,007,01,q\n6.0,7,01,\n", name))
    assert behaviors(zeros) == [("01", "007", 5), ("01", "7", 6)]


@pytest.mark.parametrize("kind", [pl.Int8, pl.UInt32, pl.Int64, pl.UInt64, pl.String, pl.Categorical])
def test_ids_may_be_integers_or_text(tmp_path: Path, kind: Any) -> None:
    ids = pl.Series(["7", "12", "7"]).cast(kind) if kind in (pl.String, pl.Categorical) else pl.Series([7, 12, 7], dtype=kind)
    log = read_tidy(parquet(tmp_path, user_id=ids, item_id=ids, timestamp=[1, 2, 3]))
    assert behaviors(log) == [("12", "12", 2), ("7", "7", 1), ("7", "7", 3)]


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt32, pl.Float64, pl.String])
def test_times_may_be_any_whole_number(tmp_path: Path, kind: Any) -> None:
    time = pl.Series([0, 1_700_000_000, 5]).cast(kind)
    assert read_tidy(parquet(tmp_path, user_id=["a"] * 3, item_id=["x"] * 3, timestamp=time)).timestamp.tolist() == [0, 5, 1_700_000_000]


def test_the_latest_time_is_that_of_the_store(tmp_path: Path) -> None:
    assert read_tidy(parquet(tmp_path, user_id=["a"], item_id=["x"], timestamp=[2**32 - 1])).timestamp.tolist() == [2**32 - 1]


def test_sessions_are_each_users_own_and_may_be_missing(tmp_path: Path) -> None:
    rows = {"user_id": list("aaaabbb"), "item_id": list("xxxxxxx"), "timestamp": list(range(7))}
    log = read_tidy(parquet(tmp_path, **rows, session_id=["s", "s", None, None, "s", "", ""]))
    session = log.session.tolist()
    assert session[0] == session[1] and len(set(session)) == 6, "b's s is another session; a missing or empty one is nobody's"


def test_categories_of_the_log_take_the_last_row_and_items_override_them(tmp_path: Path) -> None:
    rows = {"user_id": list("aaaa"), "item_id": list("xyxz"), "timestamp": [1, 2, 3, 4], "category_id": ["p", "q", "r", ""]}
    log = read_tidy(parquet(tmp_path, **rows))
    assert [log.category_id[c] if c >= 0 else None for c in log.item_category] == ["r", "q", None]
    items = {"item_id": ["x", "w"], "category_id": ["own", None], "title": ["Ex", None], "price": [1.5, None]}
    parquet(tmp_path, "items", **items)
    log = read_tidy(tmp_path)
    assert log.item_id == ["w", "x", "y", "z"]
    assert [log.category_id[c] if c >= 0 else None for c in log.item_category] == [None, "own", "q", None]
    assert log.item_text == {"title": ["", "Ex", "", ""], "price": ["", "1.5", "", ""]}


def test_items_may_be_a_csv_and_may_know_no_category(tmp_path: Path) -> None:
    csv(parquet(tmp_path), "item_id,title\nx,Ünïcode\n", "items.csv.gz")
    log = read_tidy(tmp_path)
    assert log.item_text == {"title": ["Ünïcode", "", ""]} and log.item_category.tolist() == [-1] * 3


NAN, INF = float("nan"), float("inf")
DIRT: list[tuple[str, Any, str]] = [
    ("user_id", None, "user_id is missing"),
    ("user_id", "", "user_id is missing"),
    ("item_id", None, "item_id is missing"),
    ("item_id", "", "item_id is missing"),
    ("item_id", "é" * 129, "item_id is longer than 128 characters: éé"),
    ("user_id", "two\nlines", "user_id holds a control character: "),
    ("item_id", "nul\x00", "item_id holds a control character: "),
    ("timestamp", None, "timestamp is missing"),
    ("timestamp", NAN, "timestamp is not a whole number of unix seconds: NaN"),
    ("timestamp", INF, "timestamp is not a whole number of unix seconds: inf"),
    ("timestamp", 1.5, "timestamp is not a whole number of unix seconds: 1.5"),
    ("timestamp", -1.0, "timestamp is outside 0..4294967295: -1"),
    ("timestamp", 2.0**32, "timestamp is outside 0..4294967295: 4294967296"),
    ("timestamp", 1.7e12, "timestamp is outside 0..4294967295: 1700000000000"),
    ("label", 2, "label is not 0 or 1: 2"),
    ("label", None, "label is not 0 or 1: missing"),
]


@pytest.mark.parametrize(("column", "value", "reason"), DIRT, ids=[f"{column}={value!r:.12}" for column, value, _ in DIRT])
def test_a_bad_row_is_refused_with_file_row_and_reason_or_left_out_and_counted(
    tmp_path: Path, column: str, value: Any, reason: str
) -> None:
    rows = {"user_id": ["a"] * 4, "item_id": ["x"] * 4, "timestamp": [1.0, 2.0, 3.0, 4.0], "label": [1] * 4}
    rows[column] = [*rows[column][:2], value, rows[column][3]]
    parquet(tmp_path, **rows)
    with pytest.raises(TidyDataError) as refused:
        read_tidy(tmp_path)
    assert f"interactions.parquet: row 3: {reason}" in str(refused.value)
    assert str(refused.value).endswith("Correct the file or use --skip-bad-rows.")
    log = read_tidy(tmp_path, skip_bad_rows=True)
    assert log.timestamp.tolist() == [1, 2, 4]
    assert len(log.skipped) == 1 and log.skipped[0].startswith(f"interactions.parquet: row 3: {reason}")
    assert log.describe()["skipped_rows"] == 1


@pytest.mark.parametrize(
    ("value", "reason"), [("soon", ": soon"), ("", "missing"), ("-5", "-5"), ("1e3.5", "1e3.5"), ("nan", ": nan"), ("0x10", "0x10")]
)
def test_a_bad_time_in_a_csv_is_named_as_written(tmp_path: Path, value: str, reason: str) -> None:
    csv(tmp_path, f"user_id,item_id,timestamp\na,x,1\na,x,{value}\n")
    with pytest.raises(TidyDataError, match=r"interactions\.csv\.gz: row 2: timestamp .*" + reason):
        read_tidy(tmp_path)


def test_many_bad_rows_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    parquet(tmp_path, user_id=["a"] * 20, item_id=["x"] * 20, timestamp=[-1] * 17 + [1, 2, 3])
    with pytest.raises(TidyDataError, match=r"row 1: .*row 5: .* \(and 12 more\)"):
        read_tidy(tmp_path)
    log = read_tidy(tmp_path, skip_bad_rows=True)
    assert len(log.skipped) == 17 and log.num_behaviors == 3


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"user_id": ["a"], "item_id": ["x"]}, "column 'timestamp' is missing; columns are user_id, item_id"),
        ({"user": ["a"], "item_id": ["x"], "timestamp": [1]}, "column 'user_id' is missing"),
        ({"user_id": [1.5], "item_id": ["x"], "timestamp": [1]}, "column 'user_id' holds Float64; ids are integers or strings"),
        ({"user_id": ["a"], "item_id": [[1]], "timestamp": [1]}, "column 'item_id' holds List"),
        ({"user_id": [True], "item_id": ["x"], "timestamp": [1]}, "column 'user_id' holds Boolean"),
        ({"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "session_id": [1.5]}, "column 'session_id' holds Float64"),
        ({"user_id": ["a"], "item_id": ["x"], "timestamp": [True]}, "column 'timestamp' holds Boolean; it must hold unix seconds"),
        ({"user_id": ["a"], "item_id": ["x"], "timestamp": [[1]]}, "column 'timestamp' holds List"),
        ({"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "label": [0]}, "1 rows have label 0"),
        ({"user_id": ["a"], "item_id": ["x"], "timestamp": [1], "label": [[1]]}, "column 'label' holds List"),
    ],
)
def test_a_column_of_the_wrong_kind_is_refused_by_name(tmp_path: Path, columns: dict[str, list[Any]], reason: str) -> None:
    with pytest.raises(TidyDataError) as refused:
        read_tidy(parquet(tmp_path, **columns))
    assert str(tmp_path / "interactions.parquet") in str(refused.value) and reason in str(refused.value)


def test_times_as_dates_are_refused(tmp_path: Path) -> None:
    time = pl.Series([0, 1]).cast(pl.Datetime("us"))
    with pytest.raises(TidyDataError, match=r"column 'timestamp' holds Datetime.*it must hold unix seconds"):
        read_tidy(parquet(tmp_path, user_id=["a", "a"], item_id=["x", "x"], timestamp=time))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("interactions.parquet", b"", "cannot be read"),
        ("interactions.parquet", b"not parquet at all", "cannot be read"),
        ("interactions.csv.gz", b"", "cannot be read"),
        ("interactions.csv", b"", "cannot be read"),
        ("interactions.csv", b"user_id,item_id,timestamp\n", "no usable row"),
        ("interactions.csv.gz", gzip.compress(b"user_id,item_id,timestamp\na,x,1\n" * 999, mtime=0)[:60], "cannot be read"),
        ("interactions.csv", b"user_id,item_id,timestamp\na,\xff\xfe,1\n", "cannot be read: not UTF-8, at row 1 or"),
        ("interactions.csv", b"user_id,item_id,timestamp\na,x,1\na,x,1,2,3\n", "cannot be read: row 2 has 5 fields, the header 3"),
        ("interactions.csv", b"\n\n\n", "cannot be read"),
        (
            "interactions.csv",
            b"user_id;item_id;timestamp\na;x;1\n",
            "timestamp; fields are separated by commas",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TidyDataError) as refused:
        read_tidy(tmp_path)
    assert str(tmp_path / name) in str(refused.value) and reason in str(refused.value)


@pytest.mark.parametrize("cut", [4, 100, 0.5, -1, -9])
def test_a_truncated_parquet_file_is_refused_by_name(tmp_path: Path, cut: float) -> None:
    file = parquet(tmp_path, user_id=["a"] * 500, item_id=list(map(str, range(500))), timestamp=list(range(500))) / "interactions.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(cut * len(content)) if isinstance(cut, float) else int(cut)])
    with pytest.raises(TidyDataError, match=r"interactions\.parquet: cannot be read"):
        read_tidy(tmp_path)


@pytest.mark.parametrize(
    "make", [lambda folder: None, lambda folder: folder.mkdir(), lambda folder: (folder / "interactions.parquet").mkdir(parents=True)]
)
def test_a_folder_without_interactions_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "there")
    with pytest.raises(TidyDataError, match=r"there: neither interactions\.parquet nor interactions\.csv\.gz"):
        read_tidy(tmp_path / "there")


def test_no_rows_at_all_are_refused(tmp_path: Path) -> None:
    empty = pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64})
    empty.write_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(TidyDataError, match=r"interactions\.parquet: no usable row"):
        read_tidy(tmp_path)
    parquet(tmp_path, user_id=["a"], item_id=["x"], timestamp=[-1])
    with pytest.raises(TidyDataError, match=r"no usable row.*row 1: timestamp is outside"):
        read_tidy(tmp_path, skip_bad_rows=True)


def test_items_listed_twice_or_without_id_are_refused_or_left_out(tmp_path: Path) -> None:
    parquet(parquet(tmp_path), "items", item_id=["x", None, "y", "x"], title=["first", "none", "why", "second"])
    with pytest.raises(TidyDataError, match=r"items\.parquet: row 2: item_id is missing; items\.parquet: row 4: item_id 'x' appears twice"):
        read_tidy(tmp_path)
    log = read_tidy(tmp_path, skip_bad_rows=True)
    assert log.item_text["title"] == ["first", "why", ""] and len(log.skipped) == 2


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"id": ["x"]}, "column 'item_id' is missing"),
        ({"item_id": [1.5]}, "column 'item_id' holds Float64"),
        ({"item_id": ["x"], "category_id": [1.5]}, "column 'category_id' holds Float64"),
        ({"item_id": ["x"], "tags": [["a"]]}, "column 'tags' holds List"),
        ({"item_id": ["x" * 129]}, "row 1: item_id is longer than 128 characters"),
    ],
)
def test_items_of_the_wrong_kind_are_refused_by_name(tmp_path: Path, columns: dict[str, list[Any]], reason: str) -> None:
    parquet(parquet(tmp_path), "items", **columns)
    with pytest.raises(TidyDataError) as refused:
        read_tidy(tmp_path)
    assert "items.parquet" in str(refused.value) and reason in str(refused.value)


def test_an_empty_catalogue_is_no_catalogue(tmp_path: Path) -> None:
    pl.DataFrame(schema={"item_id": pl.String, "title": pl.String}).write_parquet(parquet(tmp_path) / "items.parquet")
    assert read_tidy(tmp_path).item_text == {"title": ["", "", ""]}


def test_a_hundred_users_of_five_behaviors_get_a_plain_sentence(tmp_path: Path) -> None:
    users = [f"u{i // 5}" for i in range(500)]
    log = read_tidy(parquet(tmp_path, user_id=users, item_id=[i % 9 for i in range(500)], timestamp=list(range(500))))
    with pytest.raises(
        ValueError, match="no training target: it needs 50 earlier behaviors of its user; the longest of 100 users has 5 in all"
    ):
        split_targets(log, ProtocolConfig())


def test_the_description_is_plain_json(tmp_path: Path) -> None:
    assert read_tidy(parquet(tmp_path)).describe() == {
        "behaviors": 4,
        "users": 2,
        "items": 3,
        "categories": 0,
        "first_timestamp": 10,
        "last_timestamp": 30,
        "median_length": 2.0,
        "longest": 2,
        "skipped_rows": 0,
    }
