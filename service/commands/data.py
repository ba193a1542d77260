"""`dare data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape

from model.data.complete_journey import write_complete_journey
from model.data.log import InteractionLog
from model.data.raw_log import ReadReport
from model.data.synthetic import write_synthetic
from model.data.synthetic_world import SyntheticConfig
from model.data.tidy import read_tidy
from service.commands.terminal import byte_progress, console, emit, progress_bar, table


def complete_journey(out: Path, seed: int) -> None:
    """See `dare data complete-journey`."""
    with console.status("reading the package's tables"):
        written = write_complete_journey(out, seed)
    table(f"Complete Journey in {out}", [dict(written)])


def public_set(
    name: str, write: Callable[..., ReadReport], source: Path, out: Path, skip_bad_rows: bool, as_json: bool, **options: str
) -> None:
    """See `dare data taobao`, `tmall`, `kuairand` and `movielens`: convert with a progress bar, then say what became of every row."""
    with byte_progress() as bar:
        task = bar.add_task(f"opening {source}", total=None)

        def progress(done: int, of: int, what: str) -> None:
            bar.update(task, completed=done, total=of, description=what)

        report = write(source, out, skip_bad_rows=skip_bad_rows, progress=progress, **options)
    rows: list[tuple[str, int]] = [("read", report.read), *((f"dropped: {why}", count) for why, count in report.dropped.items())]
    rows += [("kept", report.kept), *((f"written: {what}", count) for what, count in report.written.items() if what != "behaviors")]
    table(f"{name} in {out}", [{"rows": what, "number": count} for what, count in rows])
    for line in (*report.bad_rows, *report.notes):
        console.print(line, markup=False)
    emit(asdict(report), as_json)


def synthetic(out: Path, as_json: bool, half_lives: str, **options: int | float) -> None:
    """See `dare data synthetic`."""
    try:
        lives = tuple(float(text) for text in half_lives.split(","))
    except ValueError:
        raise ValueError(f"half-lives must be numbers separated by commas, or inf, got {half_lives!r}") from None
    config = SyntheticConfig(half_lives=lives, **options)  # type: ignore[arg-type]
    with progress_bar() as bar:
        task = bar.add_task("users", total=config.users, note="")
        written = write_synthetic(config, out, lambda done, of: bar.update(task, completed=done, total=of))
    table(f"synthetic world in {out}", [dict(written)])
    emit(written, as_json)


def check(folder: Path, skip_bad_rows: bool, as_json: bool) -> None:
    """See `dare data check`."""
    log = read(folder, skip_bad_rows)
    table(str(folder), [{"figure": name, "value": "-" if value is None else f"{value:,}"} for name, value in log.describe().items()])
    emit(log.describe(), as_json)


def read(folder: Path, skip_bad_rows: bool) -> InteractionLog:
    """Read a tidy folder, and report the rows left out."""
    with console.status(escape(f"reading {folder}")):
        log = read_tidy(folder, skip_bad_rows)
    for line in log.skipped[:10]:
        console.print(f"left out {line}", markup=False, soft_wrap=True)
    if len(log.skipped) > 10:
        console.print(f"... {len(log.skipped)} rows left out in all")
    return log
