"""KuaiRand (Pure, 1K, 27K): `log_*.csv`, impressions with `is_click`; `video_features_basic_*.csv` gives tags."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from model.data.public_set import PublicSet, convert
from model.data.raw_log import Progress, RawDataError, RawFormat, ReadReport, header_of, one_of, require_columns, whole_number
from model.data.tidy import LAST_TIMESTAMP
from model.data.tidy_writer import TidyWriter, distinct_items

NEEDED = ("user_id", "video_id", "time_ms", "is_click", "is_rand", "tab")
FEATURES = ("video_id", "author_id", "tag")
_BATCH = 500_000


def write_kuairand(source: Path, out: Path, skip_bad_rows: bool = False, progress: Progress = lambda done, of, what: None) -> ReadReport:
    """Write all `log_*.csv` of a folder (or its `data` folder), or one such file, as a tidy folder.

    Behaviors are the clicked impressions; an impression without a click is no behavior, and counted as such. All impressions of users
    with a behavior go to `impressions.parquet` with their labels. A video's category is the first of its tags. Exact duplicates (same
    user, video, millisecond and label) are dropped and counted.

    Args: as in `convert`.
    Raises: RawDataError, OSError.
    """
    logs, features = _files(source)

    def items(joined: TidyWriter, report: ReadReport) -> pl.DataFrame:
        known = distinct_items(joined.impressions)
        if not features:
            report.notes.append("no video_features_basic_*.csv beside the log: videos have no category")
            return known
        videos = _videos(features, report, skip_bad_rows)
        bare = known.join(videos, on="item_id", how="anti")
        if len(bare):
            report.notes.append(f"{len(bare):,} videos of the logs are not in the features; they have no category")
        return pl.concat([videos, bare], how="diagonal").sort("item_id")

    forms = tuple((path, _form(path)) for path in logs)
    made = PublicSet(forms, ("time_ms",), ("user_id", "item_id", "time_ms", "label"), items, impressions=True)
    return convert(made, out, skip_bad_rows, progress)


def _files(source: Path) -> tuple[list[Path], list[Path]]:
    if source.is_file():
        return [source], sorted(source.parent.glob("video_features_basic_*.csv"))
    for folder in (source, source / "data"):
        logs = sorted(folder.glob("log_*.csv"))
        if logs:
            return logs, sorted(folder.glob("video_features_basic_*.csv"))
    raise RawDataError(f"{source}: holds no log_*.csv")


def _form(path: Path) -> RawFormat:
    names = header_of(path)
    require_columns(path, names, NEEDED)
    return RawFormat(
        columns=names,
        bad=(
            *(whole_number(name) for name in ("user_id", "video_id")),
            whole_number("time_ms", most=LAST_TIMESTAMP * 1000 + 999),
            *(one_of(name, ("0", "1")) for name in ("is_click", "is_rand")),
            whole_number("tab"),
        ),
        drop=(),
        keep=(
            pl.col("user_id").cast(pl.Int64),
            pl.col("video_id").cast(pl.Int64).alias("item_id"),
            (pl.col("time_ms").cast(pl.Int64) // 1000).alias("timestamp"),
            pl.col("time_ms").cast(pl.Int64),
            pl.col("is_rand").cast(pl.Int8),
            pl.col("tab").cast(pl.Int64),
            pl.col("is_click").cast(pl.Int8).alias("label"),
        ),
    )


def _videos(paths: list[Path], report: ReadReport, skip: bool) -> pl.DataFrame:
    """Video id, first tag, author and tags; sorted by video. Fields may be quoted, so lines are read one by one."""
    parts = [part for path in paths for part in _video_batches(path, report, skip)]
    videos = pl.concat(parts)
    first = videos.unique("item_id", keep="first", maintain_order=True)
    if len(first) < len(videos):
        reason = f"{len(videos) - len(first):,} videos are listed twice in {', '.join(path.name for path in paths)}"
        if not skip:
            raise RawDataError(f"{reason}. Correct the file or use --skip-bad-rows.")
        report.notes.append(f"{reason}; their first line counts")
    return first.sort("item_id")


def _video_batches(path: Path, report: ReadReport, skip: bool) -> Iterator[pl.DataFrame]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = csv.reader(file)
        names = tuple(next(lines, []))
        require_columns(path, names, FEATURES)
        video_at, author_at, tag_at = (names.index(name) for name in FEATURES)
        video: list[int] = []
        author: list[str] = []
        tags: list[str] = []
        for row in lines:
            id_text = row[video_at] if len(row) == len(names) else ""
            if not (id_text.isascii() and id_text.isdigit() and len(id_text) < 19):
                reason = f"{path.name}: row {lines.line_num}: video_id is missing or no whole number, or not {len(names)} fields"
                if not skip:
                    raise RawDataError(f"{reason}: {','.join(row)[:60]}. Correct the file or use --skip-bad-rows.")
                report.notes.append(f"left out {reason}")
                continue
            video.append(int(id_text))
            author.append(row[author_at])
            tags.append(row[tag_at])
            if len(video) == _BATCH:
                yield _frame(video, author, tags)
                video, author, tags = [], [], []
        yield _frame(video, author, tags)


def _frame(video: list[int], author: list[str], tags: list[str]) -> pl.DataFrame:
    tag = pl.Series("tags", tags, dtype=pl.String)
    first = tag.str.split(",").list.first().str.strip_chars()
    category = first.set(first == "", None).alias("category_id")
    return pl.DataFrame(
        [pl.Series("item_id", np.asarray(video, dtype=np.int64)), category, pl.Series("author", author, dtype=pl.String), tag]
    )
