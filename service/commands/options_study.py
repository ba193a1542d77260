"""`dare study options`: what each option of a model is worth, beside the same model without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.config import TEACH_SEARCH, StageSpec, TrainConfig
from model.intervals import mean_auc_difference
from model.study import Cell
from service.commands.configuration import preset_config, said, studied
from service.commands.data import read
from service.commands.study_report import about, drawing, run_cells, write_report
from service.commands.terminal import console, emit, table


@dataclass(frozen=True, slots=True)
class Option:
    """A change of the models of some bases: `model` and `train` fields that differ."""

    name: str
    bases: tuple[str, ...]
    model: dict[str, Any]
    train: dict[str, Any]


NO_FEATURES = {"features": False, "feature_bins": 0}
BASES: dict[str, dict[str, Any]] = {"plain": {**NO_FEATURES, "ages": False, "objectives": ()}, "demo": {}, "default": {}}
BASE_NOTES = {
    "plain": "the default preset without hand-made features, ages and losses that teach search",
    "demo": "what `make serve` trains",
    "default": "the default preset",
}
USUAL_BASES = ("plain", "demo")
RANKING_TEACHES = (StageSpec("posterior_over_all"),)
_PLAIN, _DEMO, _DEFAULT = ("plain",), ("demo",), ("default",)
_FEATURES = _DEMO + _DEFAULT
_ALL = _PLAIN + _FEATURES
OPTIONS = (
    Option("without mass", _ALL, {"mass": False}, {}),
    Option("without the own-item bonus", _ALL, {"same_item_bonus": False}, {}),
    Option("without both", _ALL, {"mass": False, "same_item_bonus": False}, {}),
    Option("with ages", _PLAIN, {"ages": True}, {}),
    Option("without ages", _FEATURES, {"ages": False}, {}),
    Option("with sessions", _ALL, {"sessions": True}, {}),
    Option("with the own-category bonus", _ALL, {"same_category_bonus": True}, {}),
    Option("with losses that teach search", _PLAIN + _DEMO, {"objectives": TEACH_SEARCH}, {}),
    Option("with search taught by ranking", _PLAIN + _DEMO, {"objectives": RANKING_TEACHES}, {}),
    Option("one epoch", _PLAIN, {}, {"epochs": 1}),
    Option("without features", _FEATURES, NO_FEATURES, {}),
    Option("without losses that teach search", _DEFAULT, {"objectives": ()}, {}),
    Option("without bins", _FEATURES, {"feature_bins": 0}, {}),
    Option("without calibration", _FEATURES, {}, {"calibrate": False}),
    Option("with search taught by ranking instead", _DEFAULT, {"objectives": RANKING_TEACHES}, {}),
    Option("tables of width 1", _FEATURES, {"attn_width": 1, "repr_width": 1}, {}),
)


def checked_bases(names: list[str]) -> list[str]:
    """The bases of `--base`, `USUAL_BASES` without any. Raises: ValueError naming an unknown one."""
    unknown = sorted(set(names) - set(BASES))
    if unknown:
        raise ValueError(f"--base must be one of {', '.join(BASES)}, got {unknown[0]!r}")
    return list(dict.fromkeys(names)) or list(USUAL_BASES)


def base_config(base: str, seed: int, threads: int, settings: Sequence[str] = (), own: Sequence[str] = ()) -> TrainConfig:
    """The training of a base model, with what `--set` changes of it. Raises: as `studied`."""
    config = preset_config("demo" if base == "demo" else "default", seed, threads)
    return studied(replace(config, model=replace(config.model, **BASES[base])), settings, own)


def option_config(option: Option, base: TrainConfig) -> TrainConfig:
    """The base's training with the option."""
    return replace(base, model=replace(base.model, **option.model), **option.train)


def _cell(option: Option | None, base: str, seed: int, threads: int, settings: Sequence[str]) -> Cell:
    config = base_config(base, seed, threads, settings)
    if option is None:
        return Cell(f"{base}-seed{seed}", config)
    return Cell(f"{base}-{option.name.replace(' ', '-')}-seed{seed}", option_config(option, config))


def options_command(
    data: Path, out: Path, bases: list[str], names: list[str], seeds: int, settings: list[str], threads: int, as_json: bool
) -> None:
    """See `dare study options`."""
    bases = checked_bases(bases)
    chosen = [(option, base) for base in bases for option in OPTIONS if base in option.bases and (not names or option.name in names)]
    known = list(dict.fromkeys(option.name for option in OPTIONS if set(option.bases) & set(bases)))
    if missing := sorted(set(names) - set(known)):
        raise ValueError(f"--option must be one of {', '.join(known)}, got {missing[0]!r}")
    used = list(dict.fromkeys(base for _, base in chosen))

    def cells(option: Option | None, base: str) -> list[Cell]:
        return [_cell(option, base, seed, threads, settings) for seed in range(seeds)]

    every = [cell for base in used for cell in cells(None, base)] + [cell for pair in chosen for cell in cells(*pair)]
    by_name = {one.name: one for one in sorted(every, key=lambda one: (one.config.seed, one.config.model.features))}
    log = read(data, skip_bad_rows=False)
    finished = run_cells(log, by_name.values(), out / "cells")
    tables: dict[str, list[dict[str, Any]]] = {}
    for base in used:
        whole = [finished[cell.name] for cell in cells(None, base)]
        lines = [_line(base, whole, None)]
        lines += [_line(option.name, [finished[cell.name] for cell in cells(option, base)], whole) for option, of in chosen if of == base]
        tables[f"{base}: {BASE_NOTES[base]}"] = lines
    for heading, lines in tables.items():
        table(heading, lines)
    note = (
        f"Whole histories, {seeds} seeds, the same rows for every line. Differences are to the first line, with the "
        f"interval that holds 95 % of 400 resamples of users.{said(settings)}"
    )
    report = {**about(log), "seeds": seeds, "note": note}
    write_report(out, "options", "What each option is worth", note, report, tables)
    _plot(tables, out / "options.png")
    console.print(f"written to {out}: options.md, options.json, options.png", markup=False)
    emit({**report, "tables": tables}, as_json)


def _line(name: str, seeds: list[Any], base: list[Any] | None) -> dict[str, Any]:
    difference, bounds = "-", [0.0, 0.0, 0.0]
    if base is not None:
        found = mean_auc_difference(seeds, base)
        difference, bounds = str(found), [found.value, found.low, found.high]
    return {
        "model": name,
        "auc": float(np.mean([one.figures["auc"] for one in seeds])),
        "auc_never_seen": float(np.mean([one.figures["auc_never_seen"] for one in seeds])),
        "log_loss": float(np.mean([one.figures["log_loss"] for one in seeds])),
        "difference": difference,
        "low": round(bounds[1], 4),
        "high": round(bounds[2], 4),
    }


def _plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    lines = [(heading, line) for heading, group in tables.items() for line in group[1:]]
    with drawing(path, 7, 0.9 + 0.3 * len(lines)) as axes:
        for place, (_, line) in enumerate(reversed(lines)):
            axes.plot([line["low"], line["high"]], [place, place], color="C0", linewidth=3)
        axes.set_yticks(range(len(lines)), [f"{heading.partition(':')[0]}, {line['model']}" for heading, line in reversed(lines)])
        axes.axvline(0, color="0.5", linewidth=0.8)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("test AUC minus that of the base (95 % interval)")
        axes.grid(alpha=0.3, axis="x")
