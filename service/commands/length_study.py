"""`dare study length`: what a longer history is worth to the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.intervals import mean_auc_difference
from model.outcome import Outcome
from model.study import Cell
from service.commands.configuration import of_baseline, preset_config, said, studied
from service.commands.data import read
from service.commands.options_study import BASE_NOTES, base_config, checked_bases
from service.commands.study_report import about, drawing, run_cells, write_report
from service.commands.terminal import console, emit, table

COUNTS, PAPER = "counts", "dare, as published"
_FIGURES = ("auc", "gauc", "log_loss", "ece", "auc_never_seen")
_NOTE = (
    "The same test rows for every line of a seed; figures are means over the seeds. `whole ahead by`: AUC of the same model on whole "
    "histories minus this one's, with the interval that holds 95 % of 400 resamples of users. `auc_never_seen` is over the candidates that "
    "are not among the behaviors the model reads, so its rows differ between lengths. "
)
_OWN = ("model.longest",)


def length_command(
    data: Path, out: Path, bases: list[str], lengths: list[int], seeds: int, settings: list[str], threads: int, paper: bool, as_json: bool
) -> None:
    """See `dare study length`."""
    bases = checked_bases(bases)
    cut: list[int | None] = [*sorted(set(lengths)), None]
    rows = {(model, longest): _cells(model, longest, seeds, threads, settings) for model in (*bases, COUNTS) for longest in cut}
    if paper:
        published = [studied(preset_config("paper", seed, threads), settings, _OWN) for seed in range(seeds)]
        rows[PAPER, published[0].model.longest] = [Cell(f"dare-seed{config.seed}", config) for config in published]
    log = read(data, skip_bad_rows=False)
    cells = sorted((cell for of_row in rows.values() for cell in of_row), key=lambda cell: (cell.config.seed, cell.config.model.features))
    finished = run_cells(log, cells, out / "cells")
    tested = {key: [finished[cell.name] for cell in of_row] for key, of_row in rows.items()}
    lines = [_line(model, longest, found, tested.get((model, None), tested[bases[0], None])) for (model, longest), found in tested.items()]
    table(f"test rows of {data}, {seeds} seeds", lines)
    note = _NOTE + _about_models(bases, paper) + said(settings)
    report = {**about(log), "seeds": seeds, "note": note}
    write_report(out, "length", "What a longer history is worth", note, report, {f"Test rows, {seeds} seeds": lines})
    _plot(lines, out / "length.png")
    console.print(f"written to {out}: length.md, length.json, length.png", markup=False)
    emit({**report, "rows": lines}, as_json)


def _about_models(bases: list[str], paper: bool) -> str:
    models = {**{base: BASE_NOTES[base] for base in bases}, COUNTS: "logistic regression on counts"}
    if paper:
        models[PAPER] = f"the preset paper, beside {bases[0]} on whole histories"
    return "; ".join(f"{model}: {what}" for model, what in models.items()) + "."


def _cells(model: str, longest: int | None, seeds: int, threads: int, settings: list[str]) -> list[Cell]:
    name = model if longest is None else f"{model}-newest{longest}"
    kind, base = ("two_stage", model) if model != COUNTS else (COUNTS, "default")
    settings = settings if model != COUNTS else of_baseline(settings)
    made = [base_config(base, seed, threads, settings, _OWN) for seed in range(seeds)]
    return [
        Cell(f"{name}-seed{seed}", replace(config, model=replace(config.model, longest=longest)), kind) for seed, config in enumerate(made)
    ]


def _line(model: str, longest: int | None, seeds: Sequence[Outcome], whole: Sequence[Outcome]) -> dict[str, Any]:
    ahead = "-" if seeds is whole else str(mean_auc_difference(whole, seeds))
    figures = {name: float(np.mean([one.figures[name] for one in seeds])) for name in _FIGURES}
    return {"model": model, "newest": longest or "whole", **figures, "whole ahead by": ahead}


def _plot(lines: list[dict[str, Any]], path: Path) -> None:
    shown = [line for line in lines if line["model"] != PAPER]
    ticks = list(dict.fromkeys(str(line["newest"]) for line in shown))
    with drawing(path, 6, 3.6) as axes:
        for place, model in enumerate(dict.fromkeys(line["model"] for line in shown)):
            for column, style in (("auc", "o-"), ("auc_never_seen", "o--")):
                values = [line[column] for line in shown if line["model"] == model]
                axes.plot(ticks, values, style, color=f"C{place}", label=model if column == "auc" else None)
        axes.set_xlabel("newest behaviors the model reads")
        axes.set_ylabel("test AUC (dashed: never-seen)")
        axes.grid(alpha=0.3)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
