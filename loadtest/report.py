"""Percentiles per stage, read from the answers' `Server-Timing`; as a table and as JSON.

`python -m loadtest.report FILE` shows a saved report again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

PERCENTILES = (50, 90, 95, 99, 99.9)
SHOWN = ("p50_ms", "p90_ms", "p99_ms", "max_ms")
"""Columns of the table; the JSON has all of them."""


def parse_server_timing(header: str) -> dict[str, float]:
    """Stage -> ms from a `Server-Timing` header (W3C Server Timing, section 3).

    A metric without a `dur` parameter carries no time and is left out. Raises: ValueError naming a duration that is no finite number.
    """
    stages: dict[str, float] = {}
    for metric in header.split(","):
        name, *parameters = (part.strip() for part in metric.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                duration = _number(value.strip().strip('"'))
                if duration is None:
                    raise ValueError(f"Server-Timing: the duration of {name!r} is not a number: {parameter!r}")
                stages[name] = duration
    return stages


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


class StageTimes:
    """Samples in ms, by path and stage, in the order in which they were first seen."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[float]] = {}

    def add(self, path: str, stage: str, value_ms: float) -> None:
        """Record one time."""
        self._samples.setdefault((path, stage), []).append(value_ms)

    def of(self, path: str, stage: str) -> list[float]:
        """The samples recorded, empty when there are none."""
        return self._samples.get((path, stage), [])

    def rows(self) -> list[dict[str, Any]]:
        """One row per path and stage: `path`, `stage`, `count`, `mean_ms`, `p50_ms` ... `max_ms`."""
        return [{"path": path, "stage": stage} | summary(samples) for (path, stage), samples in self._samples.items()]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """`count`, `mean_ms`, percentiles and `max_ms` of times in ms. A percentile is a time that was measured (the higher neighbour)."""
    values = np.asarray(samples, dtype=np.float64)
    row: dict[str, float] = {"count": len(values), "mean_ms": round(float(values.mean()), 3)}
    for percentile, value in zip(PERCENTILES, np.percentile(values, PERCENTILES, method="higher").tolist(), strict=True):
        row[f"p{percentile:g}_ms"] = round(value, 3)
    return row | {"max_ms": round(float(values.max()), 3)}


def show(report: dict[str, Any], console: Console) -> None:
    """Print a report's stage rows, errors and verdict."""
    rows: list[dict[str, Any]] = report["rows"]
    table = Table(title=report.get("title", "Times, ms"), box=SIMPLE)
    for name in ("path", "stage"):
        table.add_column(name, no_wrap=True)
    for name in ("count", *SHOWN):
        table.add_column(name.removesuffix("_ms"), justify="right", no_wrap=True)
    previous = None
    for row in rows:
        again = row["path"] == previous
        if previous is not None and not again:
            table.add_section()
        previous = row["path"]
        table.add_row("" if again else row["path"], row["stage"], str(row["count"]), *(f"{row[name]:.2f}" for name in SHOWN))
    console.print(table)
    for kind, count in report.get("errors", {}).items():
        console.print(f"error: {count} x {kind}", markup=False)
    verdict = report.get("objective")
    if verdict is not None:
        console.print(f"{'PASS' if verdict['met'] else 'FAIL'}: {verdict['text']}", markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Show a saved report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.report", description="Show a saved load-test report.")
    parser.add_argument("file", type=Path, help="JSON written by the load tests")
    file: Path = parser.parse_args(arguments).file
    try:
        report = json.loads(file.read_text("utf-8"))
        show(report, Console())
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {file}: not a load-test report: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
