"""Public log files as they are: read in pieces, each line checked, each line accounted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

PIECE_BYTES = 32 << 20
"""Bytes read at a time; a piece and its columns are all of a file that is in memory."""
_REPORTED = 5
_EXAMPLES = 10
Progress = Callable[[int, int, str], None]
"""Called with (done, of all, what is being done); both numbers are bytes."""


class RawDataError(ValueError):
    """The file is not in the published format; the message names the file, the row and the reason."""


@dataclass(slots=True)
class ReadReport:
    """What became of every row: `read` is `kept` plus the sum of `dropped`.

    `dropped`: rows by reason. `bad_rows`: the first bad rows, as "file: row N: reason". `notes`: what the reader should know. `written`:
    behaviors, users and items in the tidy folder.
    """

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    bad_rows: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, rows: int) -> None:
        """Count rows that were left out."""
        if rows:
            self.dropped[reason] = self.dropped.get(reason, 0) + rows


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How lines become behaviors.

    `columns`: names of the fields in the file's order. `bad`: expressions over the text fields, each the reason why a line cannot be read,
    or null. `drop`: expressions over the text fields, each the reason why a sound line is no behavior here, or null; the first reason
    counts. `keep`: the columns written. `separator` between fields, `header` whether the first line holds names.
    """

    columns: tuple[str, ...]
    bad: tuple[pl.Expr, ...]
    drop: tuple[pl.Expr, ...]
    keep: tuple[pl.Expr, ...]
    separator: str = ","
    header: bool = True


def whole_number(name: str, least: int | None = 0, most: int | None = None) -> pl.Expr:
    """Reason why the field is not a whole number of 64 bits from `least` to `most` (None: no bound), or null."""
    number = pl.col(name).cast(pl.Int64, strict=False)
    wrong, kind = number.is_null(), "a whole number"
    if least is not None:
        wrong, kind = wrong | (number < least), f"a whole number of {least} or more"
    if most is not None:
        wrong, kind = wrong | (number > most), f"a whole number from {least} to {most}"
    return (
        pl.when(pl.col(name).fill_null("") == "")
        .then(pl.lit(f"{name} is missing"))
        .when(wrong)
        .then(pl.lit(f"{name} is not {kind}: ") + pl.col(name).str.slice(0, 40))
    )


def one_of(name: str, known: tuple[str, ...]) -> pl.Expr:
    """Reason why the field is none of the known texts, or null."""
    text = pl.col(name).fill_null("")
    return pl.when(~text.is_in(list(known))).then(pl.lit(f"{name} is none of {', '.join(known)}: ") + text.str.slice(0, 40))


def header_of(path: Path, separator: str = ",") -> tuple[str, ...]:
    """Names in the first line.

    Raises: RawDataError for an empty or packed file.
    """
    with path.open("rb") as file:
        first = file.readline(1 << 16)
    _refuse_packed(path, first)
    names = first.decode("utf-8-sig", errors="replace").strip().split(separator)
    if names == [""]:
        raise RawDataError(f"{path}: the first line is empty; it must name the columns")
    return tuple(names)


def require_columns(path: Path, names: tuple[str, ...], needed: tuple[str, ...]) -> None:
    """Raises: RawDataError when the header lacks a needed column."""
    missing = [name for name in needed if name not in names]
    if missing:
        raise RawDataError(f"{path}: column {missing[0]!r} is missing; columns are {', '.join(names)[:400]}")


def behaviors(
    path: Path, form: RawFormat, report: ReadReport, skip_bad_rows: bool, progress: Callable[[int], None] = lambda done: None
) -> Iterator[pl.DataFrame]:
    """The file's behaviors, a piece at a time, in the file's order; rows are numbered as lines of the file, from 1.

    Args:
        path: an unpacked text file. A byte order mark and carriage returns are dropped; bytes that are no UTF-8 make a bad row.
        report: counts every row.
        skip_bad_rows: count and list bad rows instead of refusing the file.
        progress: called with the bytes read so far.
    Raises: RawDataError for a packed or empty file, or a bad row (unless skipped).
    """
    row = 1
    for text, done in _pieces(path, report):
        lines = _lines(text)
        first = row
        row += len(lines)
        if form.header and first == 1:
            lines, first = lines.slice(1), 2
        yield _clean(_fields(lines, form), path, first, form, report, skip_bad_rows)
        progress(done)


def _pieces(path: Path, report: ReadReport) -> Iterator[tuple[bytes, int]]:
    """Whole lines of about `PIECE_BYTES`, each piece with the bytes read so far."""
    rest = b""
    done = 0
    with path.open("rb") as file:
        while block := file.read(PIECE_BYTES):
            if done == 0:
                _refuse_packed(path, block)
                block = block.removeprefix(b"\xef\xbb\xbf")
            done = file.tell()
            cut = block.rfind(b"\n") + 1
            if cut == 0:
                rest += block
                if len(rest) > 4 * PIECE_BYTES:
                    raise RawDataError(f"{path}: no line end in {len(rest):,} bytes; this is not a text table")
                continue
            yield rest + block[:cut], done
            rest = block[cut:]
    if rest:
        report.notes.append(f"the last line of {path.name} has no line end: the file may be cut off")
        yield rest + b"\n", done
    if done == 0:
        raise RawDataError(f"{path}: the file is empty")


def _refuse_packed(path: Path, start: bytes) -> None:
    for magic, kind in ((b"PK\x03\x04", "zip"), (b"\x1f\x8b", "gzip"), (b"Rar!", "rar"), (b"7z\xbc\xaf", "7z")):
        if start.startswith(magic):
            raise RawDataError(f"{path}: this is a {kind} archive; unpack it first")


def _lines(text: bytes) -> pl.Series:
    """The lines of UTF-8 text that ends with a line end, without their line ends: String [lines]."""
    if not text.isascii():
        text = text.decode("utf-8", errors="replace").encode()
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n"))
    offset = np.concatenate([[0], ends + 1]).astype(np.int64)
    array = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offset), pa.py_buffer(text))
    return pl.Series("line", array).str.strip_chars_end("\r\n")


def _fields(lines: pl.Series, form: RawFormat) -> pl.DataFrame:
    # The last field takes the rest of the line, so a field too many is seen there.
    split = pl.col("line").str.splitn(form.separator, len(form.columns)).struct.rename_fields(list(form.columns))
    return lines.to_frame().with_columns(split.alias("fields")).unnest("fields")


def _wrong_width(form: RawFormat) -> pl.Expr:
    last = pl.col(form.columns[-1])
    width = pl.col("line").str.count_matches(form.separator, literal=True) + 1
    return (
        pl.when(pl.col("line") == "")
        .then(pl.lit("the line is empty"))
        .when(last.is_null() | last.str.contains(form.separator, literal=True))
        .then(pl.lit(f"{len(form.columns)} fields are needed, the line has ") + width.cast(pl.String))
    )


def _clean(frame: pl.DataFrame, path: Path, first: int, form: RawFormat, report: ReadReport, skip: bool) -> pl.DataFrame:
    report.read += len(frame)
    bad = frame.select(pl.coalesce(_wrong_width(form), *form.bad).alias("reason"))["reason"]
    if bad.null_count() < len(frame):
        where = bad.is_not_null().arg_true()
        lines = [f"{path.name}: row {first + int(row)}: {bad[row]}" for row in where[:_EXAMPLES].to_list()]
        if not skip:
            more = f" (and {len(where) - _REPORTED} more nearby)" if len(where) > _REPORTED else ""
            raise RawDataError("; ".join(lines[:_REPORTED]) + more + ". Correct the file or use --skip-bad-rows.")
        report.bad_rows += lines[: _EXAMPLES - len(report.bad_rows)]
        report.drop("bad row", len(where))
        frame = frame.filter(bad.is_null())
    if form.drop:
        reason = frame.select(pl.coalesce(form.drop).alias("reason"))["reason"]
        for name, count in reason.drop_nulls().value_counts(sort=True).iter_rows():
            report.drop(name, count)
        frame = frame.filter(reason.is_null())
    return frame.select(form.keep)
