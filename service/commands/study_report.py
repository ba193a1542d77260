"""What the studies share: running cells with progress, and a dated report as text, JSON and plot."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.data.log import InteractionLog
from model.data.protocol import Targets
from model.metrics import without_nan
from model.outcome import Outcome
from model.study import Cell, Judge, Study
from model.train import Progress
from service.bench.hardware import describe
from service.commands.terminal import progress_bar


def run_cells(
    log: InteractionLog,
    cells: Iterable[Cell],
    folder: Path,
    targets: Callable[[TrainConfig], Targets] | None = None,
    artifacts: Path | None = None,
    judge: Judge | None = None,
) -> dict[str, Outcome]:
    """Every cell's result by name; finished ones are read from `folder`. The rest as in `Study`; what it refuses it refuses first."""
    finished = {}
    cells = list(cells)
    with progress_bar() as bar:
        whole = bar.add_task("cells", total=len(cells), note="")
        task = bar.add_task("starting", total=None, note="")

        def report(text: str, progress: Progress | None) -> None:
            if progress is None:
                bar.update(task, description=text, completed=0, total=None, note="")
            else:
                bar.update(task, description=text, completed=progress.step, total=progress.total, note=f"{progress.rows_per_s:,.0f} rows/s")

        study = Study(log, folder, report, targets, artifacts, judge)
        for cell in cells:
            study.check(cell)
        for cell in cells:
            finished[cell.name] = study.run(cell)
            bar.advance(whole)
    return finished


@contextmanager
def drawing(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on, saved to `path`; inches. matplotlib is imported by those who draw alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    yield axes
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def about(log: InteractionLog) -> dict[str, Any]:
    """How a report begins: command, machine, commit and data."""
    return {"command": shlex.join(["dare", *sys.argv[1:]]), "where": describe(), "data": log.describe()}


def write_report(out: Path, name: str, title: str, note: str, report: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> None:
    """`OUT/NAME.json` with everything and `OUT/NAME.md` with the tables; the plot is `OUT/NAME.png`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(without_nan({**report, "tables": tables}), indent=1, allow_nan=False) + "\n")
    where = report["where"]
    lines = [
        f"# {title}",
        "",
        f"`{report['command']}`  ",
        f"{where['when']}, commit {where['commit']}, {where['cpu']}, {where['cores']} cores, load {where['load_average_1min']}",
        "",
        note,
    ]
    for heading, rows in tables.items():
        lines += ["", f"## {heading}", "", *markdown(rows)]
    (out / f"{name}.md").write_text("\n".join([*lines, "", f"![{title}]({name}.png)", ""]))


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """Rows with the same keys as lines of a Markdown table."""
    head = ["| " + " | ".join(rows[0]) + " |", "|---|" + "---:|" * (len(rows[0]) - 1)]
    return head + ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4f}" if abs(value) < 10 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
