"""What the commands print: progress and tables to standard error, JSON to standard output."""

from __future__ import annotations

import json
import math
import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from model.metrics import without_nan

REDIRECTED_WIDTH = 200
"""Columns of output that goes to a file or a pipe: no terminal's width may cut a figure there."""


def _width() -> int | None:
    """None lets the terminal, or COLUMNS, say how wide it is."""
    if "COLUMNS" in os.environ or any(os.isatty(stream) for stream in (0, 1, 2)):
        return None
    return REDIRECTED_WIDTH


console = Console(stderr=True, width=_width())


def progress_bar() -> Progress:
    """A progress display with time spent and time left."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console)


def byte_progress() -> Progress:
    """The same for work counted in bytes of a file, with its speed."""
    speed = (DownloadColumn(), TransferSpeedColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), *speed, console=console)


def table(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys as a table; brackets in the texts are brackets."""
    made = Table(title=escape(title), title_justify="left")
    for name in rows[0]:
        made.add_column(escape(name), justify="left" if isinstance(rows[0][name], str) else "right", overflow="fold")
    for row in rows:
        made.add_row(*map(_cell, row.values()))
    console.print(made)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def emit(value: Any, as_json: bool) -> None:
    """JSON to standard output, when asked for."""
    if as_json:
        print(json.dumps(without_nan(value), indent=1, sort_keys=True, allow_nan=False))
