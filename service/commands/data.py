"""`dare data`."""

from __future__ import annotations

from pathlib import Path

from model.data.complete_journey import write_complete_journey
from model.data.log import InteractionLog
from model.data.tidy import read_tidy
from service.commands.terminal import console, emit, table


def complete_journey(out: Path, seed: int) -> None:
    """See `dare data complete-journey`."""
    with console.status("reading the package's tables"):
        written = write_complete_journey(out, seed)
    table(f"Complete Journey in {out}", [dict(written)])


def check(folder: Path, skip_bad_rows: bool, as_json: bool) -> None:
    """See `dare data check`."""
    log = read(folder, skip_bad_rows)
    table(str(folder), [{"figure": name, "value": "-" if value is None else f"{value:,}"} for name, value in log.describe().items()])
    emit(log.describe(), as_json)


def read(folder: Path, skip_bad_rows: bool) -> InteractionLog:
    """Read a tidy folder, and report the rows left out."""
    with console.status(f"reading {folder}"):
        log = read_tidy(folder, skip_bad_rows)
    for line in log.skipped[:10]:
        console.print(f"left out {line}", markup=False)
    if len(log.skipped) > 10:
        console.print(f"... {len(log.skipped)} rows left out in all")
    return log
