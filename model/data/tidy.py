"""The tidy format: `interactions.parquet` or `.csv.gz`, and optionally `items.parquet` or `.csv.gz` (docs/data.md)."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from model.data.log import InteractionLog

REQUIRED = ("user_id", "item_id", "timestamp")
OPTIONAL = ("category_id", "session_id", "label")
LAST_TIMESTAMP = 2**32 - 1
"""Latest timestamp, unix seconds: what the behavior store can hold."""
_REPORTED = 5
_FINER = pl.lit(" (milliseconds, or finer? seconds are asked for)")


class TidyDataError(ValueError):
    """The folder is not in the tidy format; the message names the file, the row and the reason."""


def read_tidy(folder: Path, skip_bad_rows: bool = False) -> InteractionLog:
    """Read a folder in the tidy format.

    Args:
        folder: holds `interactions.parquet`, `interactions.csv.gz` or `interactions.csv`; extra columns are ignored.
        skip_bad_rows: leave bad rows out and list them in `InteractionLog.skipped` instead of refusing the file.
    Raises: TidyDataError for a missing file or column, a bad row (unless skipped), no rows at all, or labels of 0.
    """
    path = _find(folder, "interactions")
    if path is None:
        hint = "" if folder.is_dir() else "; there is no such folder"
        raise TidyDataError(f"{folder}: neither interactions.parquet nor interactions.csv.gz nor interactions.csv is there{hint}")
    frame = read_columns(path, REQUIRED, OPTIONAL)
    frame, skipped = _validated(frame, path, skip_bad_rows)
    if len(frame) == 0:
        raise TidyDataError(f"{path}: no usable row" + "".join(f"; {line}" for line in skipped[:_REPORTED]))
    items, skipped_items = _read_items(folder, skip_bad_rows)
    return _build(frame, items, skipped + skipped_items)


def _find(folder: Path, stem: str) -> Path | None:
    for suffix in (".parquet", ".csv.gz", ".csv"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def read_columns(path: Path, required: tuple[str, ...], optional: tuple[str, ...] | None) -> pl.DataFrame:
    """The wanted columns (all of them where `optional` is None); a CSV comes as text, so that nothing is guessed.

    Raises: TidyDataError for a missing column, or a file that cannot be read, with the line at fault where there is one.
    """
    try:
        lazy = pl.scan_parquet(path, glob=False) if path.suffix == ".parquet" else pl.scan_csv(path, infer_schema=False, glob=False)
        names = lazy.collect_schema().names()
        missing = [name for name in required if name not in names]
        if missing:
            hint = "; fields are separated by commas" if len(names) == 1 and path.suffix != ".parquet" else ""
            raise TidyDataError(f"{path}: column {missing[0]!r} is missing; columns are {', '.join(names)}{hint}")
        wanted = names if optional is None else [name for name in (*required, *optional) if name in names]
        return lazy.select(wanted).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise TidyDataError(f"{path}: cannot be read: {_line_at_fault(path) or error}") from error


def _line_at_fault(path: Path) -> str | None:
    """The first row of a CSV file that is no UTF-8 or has too many fields: the reader that stopped there does not say which."""
    if path.suffix == ".parquet":
        return None
    row = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as text:
            lines = csv.reader(text)
            header = next(lines)
            for row, fields in enumerate(lines, 1):
                if len(fields) > len(header):
                    return f"row {row} has {len(fields)} fields, the header {len(header)}"
    except UnicodeDecodeError as error:
        return f"not UTF-8, at row {row + 1} or soon after it: {error.reason}"
    except (StopIteration, OSError, EOFError, zlib.error, csv.Error):
        return None
    return None


def _id_reason(name: str) -> pl.Expr:
    text = pl.col(name).cast(pl.String)
    return (
        pl.when(text.is_null() | (text == ""))
        .then(pl.lit(f"{name} is missing"))
        .when(text.str.len_chars() > 128)
        .then(pl.lit(f"{name} is longer than 128 characters: ") + text.str.slice(0, 40))
        .when(text.str.contains(r"[\x00-\x1f]"))  # the service refuses such ids: nobody could ask about them
        .then(pl.lit(f"{name} holds a control character: ") + text.str.replace_all(r"[\x00-\x1f]", "?"))
    )


def _check_kinds(schema: pl.Schema, path: Path) -> None:
    for name in ("user_id", "item_id", "category_id", "session_id"):
        kind = schema.get(name)
        if kind is not None and kind not in (pl.String, pl.Categorical, pl.Enum, pl.Null) and not kind.is_integer():
            raise TidyDataError(f"{path}: column {name!r} holds {kind}; ids are integers or strings")
    nested = [name for name, kind in schema.items() if kind.is_nested() or kind == pl.Object]
    if nested:
        raise TidyDataError(f"{path}: column {nested[0]!r} holds {schema[nested[0]]}; columns are numbers or text")


def _without_empty(frame: pl.DataFrame, *names: str) -> pl.DataFrame:
    """Ids as text; an empty category or session is a missing one."""
    return frame.with_columns(pl.col(name).cast(pl.String).replace("", None) for name in names if name in frame.columns)


def _timestamp_reason() -> pl.Expr:
    raw = pl.col("timestamp").cast(pl.String)
    number = pl.col("timestamp").cast(pl.Float64, strict=False)
    return (
        pl.when(raw.is_null() | (raw == ""))
        .then(pl.lit("timestamp is missing"))
        .when(number.is_null() | ~number.is_finite() | (number != number.floor()))
        .then(pl.lit("timestamp is not a whole number of unix seconds: ") + raw)
        .when((number < 0) | (number > LAST_TIMESTAMP))
        .then(pl.lit(f"timestamp is outside 0..{LAST_TIMESTAMP}: ") + raw + pl.when(number.abs() > 1e11).then(_FINER).otherwise(pl.lit("")))
    )


def _validated(frame: pl.DataFrame, path: Path, skip: bool) -> tuple[pl.DataFrame, tuple[str, ...]]:
    _check_kinds(frame.schema, path)
    kind = frame.schema["timestamp"]
    if not (kind.is_numeric() or kind in (pl.String, pl.Null)):
        raise TidyDataError(f"{path}: column 'timestamp' holds {kind}; it must hold unix seconds, as whole numbers")
    reasons = [_id_reason("user_id"), _id_reason("item_id"), _timestamp_reason()]
    if "label" in frame.columns:
        label = pl.col("label").cast(pl.String)
        reasons.append(
            pl.when(label.is_null() | ~label.is_in(["0", "1", "0.0", "1.0", "true", "false"])).then(
                pl.lit("label is not 0 or 1: ") + label.fill_null("missing")
            )
        )
    reason = frame.select(pl.coalesce(reasons).alias("reason"))["reason"]
    bad = reason.is_not_null()
    lines = tuple(f"{path.name}: row {row + 1}: {reason[row]}" for row in bad.arg_true().to_list())
    if lines and not skip:
        raise _refusal(lines)
    frame = frame.filter(~bad)
    if "label" in frame.columns:
        negative = frame["label"].cast(pl.String).is_in(["0", "0.0", "false"])
        if negative.any():
            raise TidyDataError(
                f"{path}: {int(negative.sum())} rows have label 0: impressions that were not taken are no behaviors; "
                "keep the rows with label 1 here, and all rows in impressions.parquet (docs/data.md)"
            )
    frame = _without_empty(frame, "user_id", "item_id", "category_id", "session_id")
    return frame.with_columns(pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)), lines


def _read_items(folder: Path, skip: bool) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    path = _find(folder, "items")
    if path is None:
        return None, ()
    frame = read_columns(path, ("item_id",), None)
    _check_kinds(frame.schema, path)
    frame = _without_empty(frame, "category_id").with_columns(pl.all().cast(pl.String))
    bad = frame.select(pl.coalesce(_id_reason("item_id")).alias("reason"))["reason"]
    twice = ~frame["item_id"].is_first_distinct() & bad.is_null()
    lines = [f"{path.name}: row {row + 1}: {bad[row]}" for row in bad.is_not_null().arg_true().to_list()]
    lines += [f"{path.name}: row {row + 1}: item_id {frame['item_id'][row]!r} appears twice" for row in twice.arg_true().to_list()]
    if lines and not skip:
        raise _refusal(lines)
    return frame.filter(bad.is_null() & ~twice), tuple(lines)


def _refusal(lines: Sequence[str]) -> TidyDataError:
    more = f" (and {len(lines) - _REPORTED} more)" if len(lines) > _REPORTED else ""
    return TidyDataError("; ".join(lines[:_REPORTED]) + more + ". Correct the file or use --skip-bad-rows.")


def _codes(value: pl.Series) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Sorted distinct texts, and each value's position among them (-1 for null)."""
    ids = value.drop_nulls().unique().sort()
    table = pl.DataFrame({"id": ids, "code": np.arange(len(ids), dtype=np.int64)})
    code = pl.DataFrame({"id": value}).join(table, on="id", how="left", maintain_order="left")["code"].fill_null(-1)
    return ids.to_list(), code.to_numpy().astype(np.int64)


def _build(frame: pl.DataFrame, items: pl.DataFrame | None, skipped: tuple[str, ...]) -> InteractionLog:
    user_id, user = _codes(frame["user_id"])
    catalogue = frame["item_id"] if items is None else pl.concat([frame["item_id"], items["item_id"]])
    item_id, item_code = _codes(catalogue)
    item = item_code[: len(frame)]
    timestamp = frame["timestamp"].to_numpy().astype(np.int64)
    order = np.lexsort((np.arange(len(user)), timestamp, user))
    user, item, timestamp = user[order], item[order], timestamp[order]

    if "session_id" in frame.columns:
        _, session = _codes(frame["session_id"])
        session = session[order]
        alone = session < 0
        _, session = np.unique(np.stack([user, session], axis=1), axis=0, return_inverse=True)
        session = np.where(alone, session.max() + 1 + np.arange(len(user)), session.reshape(-1))
    else:
        session = np.arange(len(user), dtype=np.int64)

    category_id, item_category = _categories(frame, items, item_id, item_code, order)
    text: dict[str, list[str]] = {}
    if items is not None:
        row = item_code[len(frame) :]
        for name in items.columns:
            if name not in ("item_id", "category_id"):
                column = np.full(len(item_id), "", dtype=object)
                column[row] = items[name].fill_null("").to_numpy()
                text[name] = column.tolist()
    return InteractionLog(
        user_id=user_id,
        item_id=item_id,
        category_id=category_id,
        user_start=np.searchsorted(user, np.arange(len(user_id) + 1)).astype(np.int64),
        item=item.astype(np.int32),
        timestamp=timestamp,
        session=session.astype(np.int64),
        item_category=item_category,
        item_text=text,
        skipped=skipped,
    )


def _categories(
    frame: pl.DataFrame, items: pl.DataFrame | None, item_id: list[str], item_code: npt.NDArray[np.int64], order: npt.NDArray[np.intp]
) -> tuple[list[str], npt.NDArray[np.int32]]:
    """Category ids and the category code of each item: `items` decides, else the item's last row in the log."""
    category = pl.Series("category_id", [None] * len(item_id), dtype=pl.String).to_numpy().astype(object)
    if "category_id" in frame.columns:
        category[item_code[: len(frame)][order]] = frame["category_id"].to_numpy().astype(object)[order]
    if items is not None and "category_id" in items.columns:
        category[item_code[len(frame) :]] = items["category_id"].to_numpy().astype(object)
    category_id, code = _codes(pl.Series("category_id", category.tolist(), dtype=pl.String))
    return category_id, code.astype(np.int32)
