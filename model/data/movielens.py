"""MovieLens: `ratings.csv` with `movies.csv` (20M, 25M, latest), or `ratings.dat` with `movies.dat` (1M, 10M)."""

from __future__ import annotations

import csv
from pathlib import Path

import polars as pl

from model.data.public_set import PublicSet, convert, source_file
from model.data.raw_log import Progress, RawDataError, RawFormat, ReadReport, header_of, whole_number
from model.data.tidy import LAST_TIMESTAMP
from model.data.tidy_writer import TidyWriter

FILES = ("ratings.csv", "ratings.dat")
_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
_HEADER = ("userId", "movieId", "rating", "timestamp")
_NO_GENRE = "(no genres listed)"


def write_movielens(source: Path, out: Path, skip_bad_rows: bool = False, progress: Progress = lambda done, of, what: None) -> ReadReport:
    """Write the ratings (a file, or the folder that holds it) as a tidy folder: every rating is a behavior, whatever its stars.

    The category of a film is the first of its genres. Without a list of films beside the ratings there is no `items.parquet`, and the
    report says so. Exact duplicates are dropped and counted.

    Args: as in `convert`.
    Raises: RawDataError, OSError.
    """
    path = source_file(source, FILES)
    plain = path.suffix == ".dat"
    if not plain and header_of(path) != _HEADER:
        raise RawDataError(f"{path}: the first line must be {','.join(_HEADER)}, it is {','.join(header_of(path))[:200]}")
    stars = pl.col("rating").cast(pl.Float64, strict=False)
    form = RawFormat(
        columns=_COLUMNS,
        bad=(
            whole_number("user_id"),
            whole_number("item_id"),
            pl.when(stars.is_null() | ~stars.is_between(0, 5)).then(
                pl.lit("rating is not a number of 0 to 5: ") + pl.col("rating").fill_null("").str.slice(0, 40)
            ),
            whole_number("timestamp", most=LAST_TIMESTAMP),
        ),
        drop=(),
        keep=tuple(pl.col(name).cast(pl.Float64 if name == "rating" else pl.Int64) for name in _COLUMNS),
        separator="::" if plain else ",",
        header=not plain,
    )
    films = path.with_name(f"movies{path.suffix}")

    def items(joined: TidyWriter, report: ReadReport) -> pl.DataFrame | None:
        if films.is_file():
            return _films(films, report, skip_bad_rows)
        report.notes.append(f"no {films.name} beside {path.name}: there is no items.parquet, and films have no category")
        return None

    return convert(PublicSet(((path, form),), ("timestamp",), _COLUMNS, items), out, skip_bad_rows, progress)


def _films(path: Path, report: ReadReport, skip: bool) -> pl.DataFrame:
    """Film id, first genre, title and genres; a film listed twice keeps its first line."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        report.notes.append(f"{path.name} is no UTF-8; read as Latin-1, as the 1M set is")
    lines = text.splitlines()
    rows = [line.split("::") for line in lines] if path.suffix == ".dat" else list(csv.reader(lines))[1:]
    kept: dict[int, tuple[str | None, str, str]] = {}
    for number, row in enumerate(rows, start=1 if path.suffix == ".dat" else 2):
        reason = _film_reason(row, kept)
        if reason is None:
            genres = row[2]
            kept[int(row[0])] = (None if genres in ("", _NO_GENRE) else genres.split("|")[0], row[1], genres)
            continue
        if not skip:
            raise RawDataError(f"{path.name}: row {number}: {reason}. Correct the file or use --skip-bad-rows.")
        report.notes.append(f"left out {path.name}: row {number}: {reason}")
    columns = {"item_id": pl.Int64, "category_id": pl.String, "title": pl.String, "genres": pl.String}
    return pl.DataFrame([(film, *rest) for film, rest in kept.items()], schema=columns, orient="row").sort("item_id")


def _film_reason(row: list[str], kept: dict[int, tuple[str | None, str, str]]) -> str | None:
    if len(row) != 3:
        return f"3 fields are needed, the line has {len(row)}"
    if not (row[0].isascii() and row[0].isdigit() and len(row[0]) < 19):
        return f"movieId is not a whole number of 0 or more: {row[0][:40]}"
    return f"movieId {row[0]} appears twice" if int(row[0]) in kept else None
