"""Taobao User Behavior (`UserBehavior.csv`, 100,150,807 rows): user, item, category, behavior, unix seconds; no header."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from model.data.public_set import PublicSet, chosen_actions, convert, source_file
from model.data.raw_log import Progress, RawFormat, ReadReport, one_of, whole_number
from model.data.tidy_writer import newest_of_item

FILES = ("UserBehavior.csv",)
ACTIONS = {name: name for name in ("pv", "buy", "cart", "fav")}
WINDOW = (1511539200, 1512316800)
"""2017-11-25 00:00 to 2017-12-04 00:00 in UTC+8, unix seconds, the end outside: the nine days that the set covers."""
_COLUMNS = ("user_id", "item_id", "category_id", "event", "timestamp")


def write_taobao(
    source: Path, out: Path, actions: str = "pv", skip_bad_rows: bool = False, progress: Progress = lambda done, of, what: None
) -> ReadReport:
    """Write `UserBehavior.csv` (or the folder that holds it) as a tidy folder.

    Rows outside the nine days, of other actions, and exact duplicates are dropped and counted, in this order.

    Args: `actions` comma-separated, of pv, buy, cart, fav; DARE keeps pv. Others as in `convert`.
    Raises: RawDataError, ValueError, OSError.
    """
    _, other_action = chosen_actions(actions, ACTIONS)
    second = pl.col("timestamp").cast(pl.Int64, strict=False)
    numbers = ("user_id", "item_id", "category_id")
    form = RawFormat(
        columns=_COLUMNS,
        bad=(*(whole_number(name) for name in numbers), one_of("event", tuple(ACTIONS)), whole_number("timestamp", least=None)),
        drop=(
            pl.when((second < WINDOW[0]) | (second >= WINDOW[1])).then(pl.lit("outside 2017-11-25..2017-12-03 (UTC+8)")),
            other_action,
        ),
        keep=tuple(pl.col(name) if name == "event" else pl.col(name).cast(pl.Int64) for name in _COLUMNS),
        header=False,
    )
    path = source_file(source, FILES)
    made = PublicSet(
        ((path, form),), ("timestamp",), _COLUMNS, lambda joined, report: newest_of_item(joined.interactions, ("category_id",), report)
    )
    return convert(made, out, skip_bad_rows, progress)
