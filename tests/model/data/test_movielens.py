"""MovieLens `ratings.csv` and `ratings.dat` with their dirt."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from model.data.movielens import write_movielens
from model.data.raw_log import RawDataError, ReadReport
from model.data.tidy import read_tidy

RATINGS = "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,10,4.0,1260759100\n2,10,5.0,835355493\n"
FILMS = "\n".join(
    [
        "movieId,title,genres",
        '10,"American President, The (1995)",Comedy|Drama',
        "31,Amélie (2001),(no genres listed)",
        "99,Never Rated (1999),War",
        "",
    ]
)


def convert(tmp_path: Path, files: dict[str, str | bytes], **options: bool) -> tuple[ReadReport, pl.DataFrame]:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    report = write_movielens(tmp_path, tmp_path / "out", **options)
    assert report.read == report.kept + sum(report.dropped.values())
    return report, pl.read_parquet(tmp_path / "out/interactions.parquet")


def test_comma_separated_ratings(tmp_path: Path) -> None:
    report, frame = convert(tmp_path, {"ratings.csv": RATINGS, "movies.csv": FILMS})
    assert frame.rows() == [(1, 10, 4.0, 1260759100), (1, 31, 2.5, 1260759144), (2, 10, 5.0, 835355493)]
    assert report.written == {"behaviors": 3, "users": 2, "items": 3}
    log = read_tidy(tmp_path / "out")
    assert (log.item_id, log.category_id) == (["10", "31", "99"], ["Comedy", "War"])
    assert log.item_text["title"] == ["American President, The (1995)", "Amélie (2001)", "Never Rated (1999)"]
    assert log.item_category.tolist() == [0, -1, 1]


@pytest.mark.parametrize(("encoding", "notes"), [("latin-1", 1), ("utf-8", 0)])
def test_double_colon_ratings_and_both_encodings_of_films(tmp_path: Path, encoding: str, notes: int) -> None:
    films = "10::Misérables, Les: Part 2 (1995)::Drama|Musical\n31::Toy::Animation\n".encode(encoding)
    report, frame = convert(tmp_path, {"ratings.dat": "1::31::5::978300760\n1::10::3.5::978300019\n", "movies.dat": films})
    assert frame.rows() == [(1, 10, 3.5, 978300019), (1, 31, 5.0, 978300760)]
    items = pl.read_parquet(tmp_path / "out/items.parquet")
    assert items.rows()[0] == (10, "Drama", "Misérables, Les: Part 2 (1995)", "Drama|Musical")
    assert len(report.notes) == notes


def test_without_films_there_are_no_items_and_it_is_said(tmp_path: Path) -> None:
    report, _ = convert(tmp_path, {"ratings.csv": RATINGS})
    assert report.notes == ["no movies.csv beside ratings.csv: there is no items.parquet, and films have no category"]
    assert not (tmp_path / "out/items.parquet").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,31,six,1260759144", "rating is not a number of 0 to 5: six"),
        ("1,31,6,1260759144", "rating is not a number of 0 to 5: 6"),
        ("1,31,nan,1260759144", "rating is not a number of 0 to 5: nan"),
        ("1,31,2.5,4294967296", "timestamp is not a whole number from 0 to 4294967295: 4294967296"),
        ("1,31,2.5,", "timestamp is missing"),
        ("1,31,2.5", "4 fields are needed, the line has 3"),
        ("1,31,2.5,1260759144,", "4 fields are needed, the line has 5"),
    ],
)
def test_a_bad_row_is_named_or_counted(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(RawDataError) as refused:
        convert(tmp_path, {"ratings.csv": RATINGS + line + "\n"})
    assert f"ratings.csv: row 5: {reason}" in str(refused.value)
    report, _ = convert(tmp_path, {}, skip_bad_rows=True)
    assert report.dropped == {"bad row": 1}


def test_bad_films_are_named_or_noted(tmp_path: Path) -> None:
    files = {"ratings.csv": RATINGS, "movies.csv": FILMS + "10,Again (1999),War\n"}
    with pytest.raises(RawDataError, match=r"movies\.csv: row 5: movieId 10 appears twice"):
        convert(tmp_path, dict(files))
    report, _ = convert(tmp_path, {}, skip_bad_rows=True)
    assert report.notes == ["left out movies.csv: row 5: movieId 10 appears twice"]
    files["movies.csv"] = FILMS + "x1,Odd\n"
    with pytest.raises(RawDataError, match=r"row 5: 3 fields are needed, the line has 2"):
        convert(tmp_path, dict(files))


def test_another_header_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RawDataError, match="the first line must be userId,movieId,rating,timestamp, it is a,b"):
        convert(tmp_path, {"ratings.csv": "a,b\n1,2\n"})
