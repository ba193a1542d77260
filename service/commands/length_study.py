"""`dare study length`: what a longer history is worth to the same model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.counts import counts_baseline
from model.intervals import auc_difference
from model.study import Cell
from service.commands.data import read
from service.commands.study_report import about, drawing, run_cells, write_report
from service.commands.terminal import console, emit, table
from service.commands.training import preset_config

_COLUMNS = ("auc", "gauc", "log_loss", "ece", "auc_never_seen", "train_s", "rows_per_s")


def length_command(data: Path, out: Path, preset: str, lengths: list[int], seed: int, threads: int, paper: bool, as_json: bool) -> None:
    """See `dare study length`."""
    config = preset_config(preset, seed, threads)
    log = read(data, skip_bad_rows=False)
    cells = [Cell(f"{preset}-{longest or 'whole'}-seed{seed}", _cut(config, longest)) for longest in [*sorted(set(lengths)), None]]
    if paper:
        cells.append(Cell(f"paper-200-seed{seed}", preset_config("paper", seed, threads)))
    finished = run_cells(log, cells, out / "length")
    whole = finished[f"{preset}-whole-seed{seed}"]
    rows: list[dict[str, Any]] = []
    for name, cell in finished.items():
        row = {"model": name, **{column: cell.figures[column] for column in _COLUMNS}, "whole_ahead_by": "-"}
        if cell is not whole:
            found = auc_difference(whole.label, whole.probability, cell.probability, whole.user)
            row["whole_ahead_by"] = str(found)
        rows.append(row)
    for longest in [*sorted(set(lengths)), None]:
        with console.status(f"counts of the newest {longest or 'whole history'}"):
            figures = counts_baseline(log, config.protocol, longest).figures
        rows.append(
            {"model": f"counts-{longest or 'whole'}", **{column: figures.get(column, "-") for column in _COLUMNS}, "whole_ahead_by": "-"}
        )
    table(f"test rows of {data}: {whole.figures['num_test']:,} targets, {whole.figures['num_rows']:,} rows", rows)
    note = (
        f"{whole.figures['num_test']:,} test targets, {whole.figures['num_rows']:,} rows, the same for every row of the table. "
        "`whole_ahead_by`: AUC of the whole-history model minus this one's, with the interval that holds 95 % of 400 resamples of users. "
        "`auc_never_seen` is over the candidates that are not among the behaviors the model reads, so its rows differ between lengths. "
        "Times are of a shared machine."
    )
    report = about(log)
    write_report(out, "length", "What a longer history is worth", note, report, {"Test rows": rows})
    _plot(rows, preset, seed, lengths, out / "length.png")
    console.print(f"written to {out}: length.md, length.json, length.png", markup=False)
    emit({**report, "rows": rows}, as_json)


def _cut(config: TrainConfig, longest: int | None) -> TrainConfig:
    return replace(config, model=replace(config.model, longest=longest))


def _plot(rows: list[dict[str, Any]], preset: str, seed: int, lengths: list[int], path: Path) -> None:
    by_name = {row["model"]: row for row in rows}
    ticks = [*(str(longest) for longest in sorted(set(lengths))), "whole"]
    with drawing(path, 6, 3.6) as axes:
        for label, column, name, style in (
            (f"{preset}", "auc", "{preset}-{tick}-seed{seed}", "o-"),
            (f"{preset}, never-seen", "auc_never_seen", "{preset}-{tick}-seed{seed}", "o--"),
            ("counts", "auc", "counts-{tick}", "s-"),
            ("counts, never-seen", "auc_never_seen", "counts-{tick}", "s--"),
        ):
            values = [by_name[name.format(preset=preset, tick=tick, seed=seed)][column] for tick in ticks]
            axes.plot(ticks, values, style, label=label)
        axes.set_xlabel("newest behaviors the model reads")
        axes.set_ylabel("test AUC")
        axes.grid(alpha=0.3)
        axes.legend()
