"""Tmall Repeat Buyers, `data_format1/user_log_format1.csv`: user, item, category, seller, brand, day (MMDD of 2014), action."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from model.data.public_set import PublicSet, chosen_actions, convert, source_file
from model.data.raw_log import Progress, RawDataError, RawFormat, ReadReport, header_of, one_of, require_columns, whole_number
from model.data.tidy_writer import newest_of_item

FILES = ("user_log_format1.csv", "data_format1/user_log_format1.csv")
ACTIONS = {"0": "click", "1": "cart", "2": "buy", "3": "favourite"}
NEEDED = ("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type")
YEAR = 2014
_ZONE = timezone(timedelta(hours=8))


def second_of_day() -> dict[str, int]:
    """Unix seconds of 00:00 in UTC+8 for every day of the year, by its four digits MMDD."""
    first = datetime(YEAR, 1, 1, tzinfo=_ZONE)
    days = [first + timedelta(days=day) for day in range(365)]
    return {day.strftime("%m%d"): int(day.timestamp()) for day in days}


def write_tmall(
    source: Path, out: Path, actions: str = "click", skip_bad_rows: bool = False, progress: Progress = lambda done, of, what: None
) -> ReadReport:
    """Write `user_log_format1.csv` (or the folder that holds it) as a tidy folder.

    The time is a day; behaviors of one user and day share its first second and keep the file's order. Equal rows are separate behaviors:
    a day is too coarse to call them duplicates. Rows of other actions are dropped and counted.

    Args: `actions` comma-separated, of click, cart, buy, favourite. Others as in `convert`.
    Raises: RawDataError, also for the layout of `data_format2`; ValueError, OSError.
    """
    _, other_action = chosen_actions(actions, ACTIONS)
    path = source_file(source, FILES)
    names = header_of(path)
    if "activity_log" in names or "merchant_id" in names:
        raise RawDataError(
            f"{path}: this is the layout of data_format2 (one row per user and merchant, {', '.join(names)}); "
            "the log with one row per behavior is data_format1/user_log_format1.csv"
        )
    require_columns(path, names, NEEDED)
    columns = tuple("event" if name == "action_type" else name for name in names)
    second = second_of_day()
    day = pl.col("time_stamp")
    form = RawFormat(
        columns=columns,
        bad=(
            *(whole_number(name) for name in ("user_id", "item_id", "cat_id", "seller_id")),
            pl.when(~day.fill_null("").is_in(list(second))).then(
                pl.lit(f"time_stamp is not a day of {YEAR} as MMDD: ") + day.fill_null("").str.slice(0, 40)
            ),
            # The published file has empty brands; other texts are not brands.
            pl.when(pl.col("brand_id").fill_null("") != "").then(whole_number("brand_id")),
            one_of("event", tuple(ACTIONS)),
        ),
        drop=(other_action,),
        keep=(
            pl.col("user_id").cast(pl.Int64),
            pl.col("item_id").cast(pl.Int64),
            day.replace_strict(second, return_dtype=pl.Int64).alias("timestamp"),
            pl.col("cat_id").cast(pl.Int64).alias("category_id"),
            pl.col("event").replace_strict(ACTIONS, return_dtype=pl.String),
            pl.col("seller_id").cast(pl.Int64).alias("seller"),
            pl.col("brand_id").cast(pl.Int64, strict=False).alias("brand"),
        ),
    )
    made = PublicSet(
        ((path, form),),
        ("timestamp",),
        (),
        lambda joined, report: newest_of_item(joined.interactions, ("category_id", "seller", "brand"), report),
    )
    return convert(made, out, skip_bad_rows, progress)
