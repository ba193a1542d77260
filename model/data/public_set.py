"""The common course of the public sets' readers: clean the files piece by piece, deal, sort, join, publish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.data.raw_log import Progress, RawDataError, RawFormat, ReadReport, behaviors
from model.data.tidy_writer import TidyWriter


@dataclass(frozen=True, slots=True)
class PublicSet:
    """Source files with their formats, and how their behaviors become a tidy folder.

    `order`, `distinct` and `impressions` as in `TidyWriter`; `items` makes the catalogue once all is joined, or answers None for a set
    without.
    """

    files: tuple[tuple[Path, RawFormat], ...]
    order: tuple[str, ...]
    distinct: tuple[str, ...]
    items: Callable[[TidyWriter, ReadReport], pl.DataFrame | None]
    impressions: bool = False


def convert(source: PublicSet, out: Path, skip_bad_rows: bool, progress: Progress = lambda done, of, what: None) -> ReadReport:
    """Write the set's tidy folder.

    Args: `skip_bad_rows` count and list bad rows instead of refusing; `progress` as named there.
    Raises: RawDataError for a file that is not in the published format, a bad row (unless skipped), or when nothing is left; OSError.
    """
    report = ReadReport()
    size = sum(path.stat().st_size for path, _ in source.files)
    before = 0
    with TidyWriter(out, size, source.order, source.distinct, source.impressions) as writer:
        for path, form in source.files:

            def read(done: int, path: Path = path, before: int = before) -> None:
                progress(before + done, size, f"reading {path.name}")

            for frame in behaviors(path, form, report, skip_bad_rows, read):
                writer.add(frame)
            before += path.stat().st_size
        writer.join(report, lambda done, of: progress(size * done // of, size, "sorting by user"))
        progress(size, size, "collecting items")
        writer.publish(source.items(writer, report), report)
    return report


def source_file(source: Path, names: tuple[str, ...]) -> Path:
    """The file itself, or the first of `names` in a folder.

    Raises: RawDataError when there is none.
    """
    if source.is_dir():
        for name in names:
            if (source / name).is_file():
                return source / name
        raise RawDataError(f"{source}: holds no {' or '.join(names)}")
    if not source.is_file():
        raise RawDataError(f"{source}: no such file")
    return source


def chosen_actions(actions: str, known: dict[str, str]) -> tuple[tuple[str, ...], pl.Expr]:
    """Names from a comma-separated list, checked against `known` (value in the file -> name).

    Returns: the names, and nothing else is kept; with an expression over the text column `event`: the reason why an action is not kept.
    Raises: ValueError for an unknown name or none at all.
    """
    names = tuple(name.strip() for name in actions.split(",") if name.strip())
    for name in names:
        if name not in known.values():
            raise ValueError(f"actions: {name!r} is none of {', '.join(known.values())}")
    if not names:
        raise ValueError(f"actions: name at least one of {', '.join(known.values())}")
    event = pl.col("event").replace_strict(known, default=None)
    return names, pl.when(~event.is_in(list(names))).then(pl.lit("action ") + event + pl.lit(" is not asked for"))
