"""Results as text, JSON and a plot."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.bench.measure import Row


def as_json(row: Row) -> dict[str, Any]:
    """A row with each entry's spread and how many times longer than ours it takes."""
    entries = {
        name: asdict(spread) | {"times_ours": round(row.ratio(name), 3), "times_ours_p10": round(row.undisturbed_ratio(name), 3)}
        for name, spread in row.spreads.items()
    }
    return {"stage": row.stage, "shape": row.title, "threads": row.threads, "ours": row.ours, "entries": entries}


def as_text(row: Row) -> str:
    """A table: median, fastest and slowest tenth, calls, and how many times longer than ours, by medians and by fastest tenths."""
    width = max(len(name) for name in row.spreads) + 2
    head = f"{row.stage}: {row.title}, {row.threads} thread{'s' if row.threads > 1 else ''}"
    lines = [head, f"{'':{width}}{'median ms':>10}{'p10':>9}{'p90':>9}{'calls':>7}{'x ours':>9}{'x p10':>9}"]
    for name, spread in row.spreads.items():
        times = f"{spread.median_ms:10.3f}{spread.p10_ms:9.3f}{spread.p90_ms:9.3f}{spread.calls:7d}"
        figures = f"{times}{row.ratio(name):9.2f}{row.undisturbed_ratio(name):9.2f}"
        lines.append(f"{name:{width}}{figures}")
    return "\n".join(lines)


def verdicts_as_text(verdicts: list[dict[str, Any]]) -> str:
    """What was wanted, what was measured, and whether it was met."""
    lines = ["Wanted and measured"]
    width = max((len(one["what"]) for one in verdicts), default=0) + 2
    lines += [f"  {one['what']:{width}} {one['wanted']:>12} {one['measured']:>12}  {'met' if one['met'] else 'MISSED'}" for one in verdicts]
    return "\n".join(lines)


def stem(what: str) -> str:
    """Name of today's result files (UTC), without extension."""
    return f"{time.strftime('%Y-%m-%d', time.gmtime())}-{what}"


def write(folder: Path, name: str, text: str, answer: dict[str, Any]) -> list[Path]:
    """The same result as text and JSON. Returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.txt", folder / f"{name}.json"]
    files[0].write_text(text + "\n")
    files[1].write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n")
    return files


def plot(path: Path, rows: list[tuple[int, Row]], title: str) -> None:
    """Median time against L, both axes logarithmic; needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=120)
    for name in rows[0][1].spreads:
        lengths = [length for length, _ in rows]
        spreads = [row.spreads[name] for _, row in rows]
        label = f"{name} (ours)" if name == rows[0][1].ours else name
        (line,) = axes.plot(lengths, [one.median_ms for one in spreads], marker="o", label=label)
        low, high = [one.p10_ms for one in spreads], [one.p90_ms for one in spreads]
        axes.fill_between(lengths, low, high, alpha=0.15, color=line.get_color())
    axes.set(xscale="log", yscale="log", xlabel="behaviors L", ylabel="ms per call", title=title)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
