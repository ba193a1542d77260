"""`dare study width`: how narrow the attention table may be: AUC against the measured time of search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.data.log import InteractionLog
from model.intervals import mean_auc, mean_auc_difference
from model.item_hash import hash_item_ids
from model.runtime import ScoringRuntime
from model.study import Cell
from service.commands.configuration import preset_config, said, studied
from service.commands.data import read
from service.commands.study_report import about, drawing, run_cells, write_report
from service.commands.terminal import console, emit, table

_LENGTH, _CANDIDATES, _ROUNDS = 10_000, 512, 40


def width_command(
    data: Path, out: Path, widths: list[int], preset: str, seeds: int, settings: list[str], threads: int, as_json: bool
) -> None:
    """See `dare study width`."""
    widths = sorted(set(widths))
    cells: dict[int, list[Cell]] = {width: [] for width in widths}
    for seed in range(seeds):
        for width in widths:
            base = studied(preset_config(preset, seed, threads), settings, own=("model.attn_width",))
            config = replace(base, name=f"width{width}", model=replace(base.model, attn_width=width))
            cells[width].append(Cell(f"{preset}-width{width}-seed{seed}", config))
    log = read(data, skip_bad_rows=False)
    by_seed = [cells[width][seed] for seed in range(seeds) for width in widths]
    finished = run_cells(log, by_seed, out / "width", artifacts=out / "width" / "artifacts")
    outcomes = {width: [finished[cell.name] for cell in cells[width]] for width in widths}
    versions = {width: outcomes[width][0].figures["version"] for width in widths}
    with console.status("measuring search, all widths in turn"):
        times = search_times(log, out / "width" / "artifacts", versions)
    widest = widths[-1]
    rows: list[dict[str, Any]] = []
    for width in widths:
        found = mean_auc(outcomes[width])
        ahead = mean_auc_difference(outcomes[width], outcomes[widest])
        rows.append(
            {
                "attn_width": width,
                "auc": float(np.mean([one.figures["auc"] for one in outcomes[width]])),
                "95 %": f"{found.low:.4f} to {found.high:.4f}",
                f"ahead of {widest}": "-" if width == widest else str(ahead),
                "auc_never_seen": float(np.mean([one.figures["auc_never_seen"] for one in outcomes[width]])),
                "search_ms": float(np.median(times[width])),
                "middle half": "{:.2f} to {:.2f}".format(*np.quantile(times[width], [0.25, 0.75])),
                f"time of {widest}": f"{np.median(times[width]) / np.median(times[widest]):.0%}",
            }
        )
    heading = "Attention width"
    table(heading, rows)
    note = (
        f"{seeds} seeds, preset {preset}, representation width {by_seed[0].config.model.repr_width} throughout; widths are per field, a "
        f"key is twice as wide. `search_ms`: stage 1 as it is served, exact, one thread, {_LENGTH:,} behaviors of real users in a row and "
        f"{_CANDIDATES} candidates, seed 0, median of {_ROUNDS} rounds in which every width takes its turn. Intervals hold 95 % of 400 "
        f"resamples of users.{said(settings)}"
    )
    report = {**about(log), "note": note}
    write_report(out, "width", "How narrow the attention table may be", note, report, {heading: rows})
    _plot(rows, out / "width.png")
    console.print(f"written to {out}: width.md, width.json, width.png", markup=False)
    emit({**report, "rows": rows}, as_json)


def search_times(log: InteractionLog, artifacts: Path, versions: dict[int, str]) -> dict[int, list[float]]:
    """Milliseconds of each round's search by width, on histories and candidates that are the same for every width."""
    item_hash = hash_item_ids(log.item_id)
    order = np.argsort(log.timestamp[: 4 * _LENGTH], kind="stable")[:_LENGTH]
    behaviors, timestamp = item_hash[log.item[order]], log.timestamp[order]
    rng = np.random.default_rng(0)
    prepared = []
    for width, version in versions.items():
        runtime = ScoringRuntime.load(artifacts, version)
        # The published models read 200 behaviors; what a search over more of them costs does not depend on what they were trained on.
        runtime.longest = _LENGTH
        prepared.append((width, runtime, runtime.prepare(behaviors, timestamp)))
    times: dict[int, list[float]] = {width: [] for width in versions}
    for round_ in range(_ROUNDS + 3):
        candidates = item_hash[log.item[rng.integers(0, len(log.item), _CANDIDATES)]]
        for width, runtime, state in prepared:
            found = runtime.score(state, candidates, int(timestamp[-1])).search_ms
            if round_ >= 3:  # the first build the prepared keys
                times[width].append(found)
    return times


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    with drawing(path, 6, 3.6) as axes:
        for row in rows:
            low, high = (float(part) for part in row["95 %"].split(" to "))
            axes.plot([row["search_ms"]] * 2, [low, high], color="C0", alpha=0.5)
            axes.annotate(str(row["attn_width"]), (row["search_ms"], row["auc"]), textcoords="offset points", xytext=(6, 4))
        axes.plot([row["search_ms"] for row in rows], [row["auc"] for row in rows], "o-", color="C0")
        axes.set_xlabel(f"search, ms ({_LENGTH:,} behaviors, {_CANDIDATES} candidates, one thread)")
        axes.set_ylabel("test AUC (95 % interval)")
        axes.set_title("attention width per field")
        axes.grid(alpha=0.3)
