"""`dare study rivals`: every published model and every baseline on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.config import TEACH_SEARCH, TrainConfig, paper_preset
from model.data.impressions import impression_targets
from model.data.log import InteractionLog
from model.data.protocol import ProtocolConfig
from model.intervals import mean_auc, mean_auc_difference
from model.outcome import Outcome
from model.rivals import RIVALS, rival
from model.runtime import ScoringRuntime
from model.search_quality import Truth, runtime_quality
from model.study import Cell, Judge
from service.commands.configuration import changed, of_baseline, preset_config, said, studied
from service.commands.data import read
from service.commands.options_study import base_config
from service.commands.study_report import about, drawing, run_cells, write_report
from service.commands.terminal import console, emit, table

MAIN = ("dare", "twin", "sim_soft")
"""Rivals that are trained with every seed."""
CLOSE = ("din", "sim_hard", "sdim", "eta")
"""Rivals that are trained with the first three seeds; the others with the first."""
SETTLED = ("dare", "twin")
"""The same where dense layers are trained more slowly: whether the paper's gain is one of optimisation."""
PUBLISHED, PLAIN = "As published", "DARE with mass and matches, nothing hand-made"
SLOWER = "As published, dense layers trained at .002"
FEATURES, LIVE = "With hand-made features, frozen", "With hand-made features, live"
GROUPS = {"published": PUBLISHED, "slower": SLOWER, "plain": PLAIN, "features": FEATURES, "live": LIVE}
_WIDE = ("sd of seeds", "gauc", "log_loss", "ece", "rows_per_s")
"""Columns of the report that a terminal has no room for."""
_NOTES = {
    PUBLISHED: "softmax attention alone, the newest {longest} behaviors, {kept} kept; `ahead of DARE` is the published DARE",
    SLOWER: "the same models; Adam .01 for the tables as published, .002 for everything else, which those with deep stages need",
    PLAIN: "whole histories; the log mass of the kept and a learned bonus for the target's own item, no feature; `search taught` by the "
    "losses mass_over_all and smooth_recency",
    FEATURES: "whole histories, `demo` what `make serve` trains; item statistics, taste and popularity as the training period shows them",
    LIVE: "the same, but popularity counts what all users did before the target's day, and negatives are drawn from the 30 days before "
    "it: other rows, not to be compared with the rest",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a model of a group, and its seeds' cells."""

    group: str
    model: str
    cells: tuple[Cell, ...]


def rows_of(models: list[str], seeds: int, longest: int | None, threads: int, settings: Sequence[str] = ()) -> list[Row]:
    """Every row. `longest` behaviors of the published (None: preset's); `settings` KEY=JSON of what each row starts from."""

    def cells(name: str, count: int, config_of: Callable[..., TrainConfig], kind: str = "two_stage") -> tuple[Cell, ...]:
        of_kind = settings if kind == "two_stage" else of_baseline(settings)
        return tuple(Cell(f"{name}-seed{seed}", config_of(seed, of_kind), kind) for seed in range(count))

    def published(name: str, **changes: Any) -> Callable[..., TrainConfig]:
        def config(seed: int, settings: Sequence[str]) -> TrainConfig:
            base = replace(studied(preset_config("paper", seed, threads), settings), **changes)
            model = base.model if longest is None else replace(base.model, longest=longest)
            return replace(base, name=name, model=rival(name, model))

        return config

    def ours(base: str) -> Callable[..., TrainConfig]:
        return lambda seed, settings: base_config(base, seed, threads, settings)

    def taught(seed: int, settings: Sequence[str]) -> TrainConfig:
        base = base_config("plain", seed, threads, settings)
        return replace(base, model=replace(base.model, objectives=TEACH_SEARCH))

    def live(seed: int, settings: Sequence[str]) -> TrainConfig:
        base = base_config("default", seed, threads, settings)
        return replace(base, statistics="live", protocol=replace(base.protocol, negative_rule="trailing"))

    count = {name: seeds if name in MAIN else min(3, seeds) if name in CLOSE else 1 for name in models}
    return [
        *(Row(PUBLISHED, name, cells(name, count[name], published(name))) for name in models),
        *(
            Row(SLOWER, name, cells(f"{name}-slower", seeds if name in SETTLED else 1, published(name, learning_rate=0.002)))
            for name in models
        ),
        Row(PLAIN, "dare + mass + matches", cells("plain", seeds, ours("plain"))),
        Row(PLAIN, "the same, search taught", cells("plain-with-losses-that-teach-search", 1, taught)),
        Row(PLAIN, "counts", cells("counts", seeds, ours("default"), "counts")),
        Row(FEATURES, "demo", cells("demo", seeds, ours("demo"))),
        Row(FEATURES, "default", cells("default", seeds, ours("default"))),
        Row(FEATURES, "gbdt", cells("gbdt", seeds, ours("default"), "gbdt")),
        Row(LIVE, "default, live", cells("default-live", 1, live)),
        Row(LIVE, "gbdt, live", cells("gbdt-live", 1, live, "gbdt")),
    ]


def rivals_command(
    data: Path,
    out: Path,
    models: list[str],
    groups: list[str],
    seeds: int,
    longest: int | None,
    settings: list[str],
    impressions: bool,
    threads: int,
    as_json: bool,
) -> None:
    """See `dare study rivals`."""
    for name in models:
        rival(name, paper_preset().model)  # an unknown name is refused before anything is read
    chosen = _groups(groups, impressions)
    rows = [row for row in rows_of(models or list(RIVALS), seeds, longest, threads, settings) if row.group in chosen]
    log = read(data, skip_bad_rows=False)
    targets = (lambda config: impression_targets(data, log, config.protocol)) if impressions else None
    # Seed by seed, so that models of one seed share a prepared data set, and an interrupted study has whole seeds.
    cells = sorted((cell for row in rows for cell in row.cells), key=lambda cell: cell.config.seed)
    relevance = (data / "truth").is_dir()
    artifacts = out / "artifacts" if relevance else None
    judge = None if artifacts is None else _judge(data, log, cells[0].config.protocol, artifacts)
    finished = run_cells(log, cells, out / "cells", targets, artifacts, judge)
    with console.status("intervals"):
        tables = _tables(rows, finished, relevance)
    for heading, lines in tables.items():
        table(heading, [{name: line[name] for name in line if name not in _WIDE} for line in lines])
    note = _note(tables, longest, settings, relevance)
    report = {**about(log), "seeds": seeds, "note": note}
    write_report(out, "rivals", "Rivals on the same rows", note, report, tables)
    _plot(tables, out / "rivals.png")
    console.print(f"written to {out}: rivals.md, rivals.json, rivals.png", markup=False)
    emit({**report, "tables": tables}, as_json)


def _groups(names: list[str], impressions: bool) -> list[str]:
    unknown = sorted(set(names) - set(GROUPS))
    if unknown:
        raise ValueError(f"--group must be one of {', '.join(GROUPS)}, got {unknown[0]!r}")
    if impressions and "live" in names:
        raise ValueError("--group live draws its negatives from a season: it cannot be joined with --impressions")
    return [group for name, group in GROUPS.items() if (name in names or not names) and not (impressions and name == "live")]


def _judge(data: Path, log: InteractionLog, protocol: ProtocolConfig, artifacts: Path) -> Judge:
    """Recall of known relevance, as served, of models whose search keeps some of the behaviors."""
    truth = Truth.read(data, log, protocol.train_share + protocol.validation_share)

    def judge(config: TrainConfig, version: str) -> dict[str, Any]:
        if config.model.search.name == "everything":
            return {}
        return {"recall": runtime_quality(ScoringRuntime.load(artifacts, version), truth, log)["recall"]}

    return judge


def _note(tables: dict[str, Any], longest: int | None, settings: list[str], relevance: bool) -> str:
    paper = changed(paper_preset(), settings).model
    notes = [
        f"*{group}*: {text.format(longest=longest or paper.longest, kept=paper.kept)}." for group, text in _NOTES.items() if group in tables
    ]
    notes.append(
        "Seeds change initialisation, order, targets and negatives alike. Figures are means over the seeds; intervals hold 95 % of 400 "
        "resamples of users, the same users for both models of a difference. Rows per second of training are of a shared machine."
        f"{said(settings)}"
    )
    if relevance:
        notes.append(
            "Recall: known relevance of the K behaviors that search scores highest, as served, over the most that K can hold; models that "
            "read everything have none."
        )
    return " ".join(notes)


def _tables(rows: list[Row], finished: dict[str, Outcome], relevance: bool) -> dict[str, list[dict[str, Any]]]:
    tables: dict[str, list[dict[str, Any]]] = {}
    for group in _NOTES:
        of_group = [row for row in rows if row.group == group]
        if not of_group:
            continue
        tested = {row.model: [finished[cell.name] for cell in row.cells] for row in of_group}
        against = "dare" if group in (PUBLISHED, SLOWER) else of_group[-1].model
        lines = [_line(row.model, tested[row.model], against, tested.get(against), relevance) for row in of_group]
        tables[group] = sorted(lines, key=lambda line: -line["auc"])
    return tables


def _line(model: str, seeds: list[Outcome], against: str, other: list[Outcome] | None, relevance: bool) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([one.figures[name] for one in seeds]))

    interval = mean_auc(seeds)
    difference = "-"
    if other is not None and model != against:
        pairs = min(len(seeds), len(other))
        found = mean_auc_difference(seeds[:pairs], other[:pairs])
        difference = str(found)
    recall = ({"recall": mean("recall") if "recall" in seeds[0].figures else "-"}) if relevance else {}
    speed = [one.figures["rows_per_s"] for one in seeds if "rows_per_s" in one.figures]
    return {
        "model": model,
        "seeds": len(seeds),
        "auc": mean("auc"),
        "95 %": f"{interval.low:.4f} to {interval.high:.4f}",
        "sd of seeds": float(np.std([one.figures["auc"] for one in seeds], ddof=1)) if len(seeds) > 1 else "-",
        f"ahead of {against}": difference,
        "gauc": mean("gauc"),
        "log_loss": mean("log_loss"),
        "ece": mean("ece"),
        "auc_never_seen": mean("auc_never_seen"),
        **recall,
        "rows_per_s": round(float(np.median(speed))) if speed else "-",
    }


def _plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    lines = [(group, line) for group, lines in tables.items() for line in lines]
    colour = {group: f"C{place}" for place, group in enumerate(tables)}
    with drawing(path, 7, 1.6 + 0.26 * len(lines)) as axes:
        for place, (group, line) in enumerate(reversed(lines)):
            low, high = (float(part) for part in line["95 %"].split(" to "))
            axes.plot([low, high], [place, place], color=colour[group], linewidth=2)
            axes.plot(line["auc"], place, "o", color=colour[group])
            axes.plot(line["auc_never_seen"], place, "x", color=colour[group], alpha=0.6)
        for group in tables:
            axes.plot([], [], "o", color=colour[group], label=group)
        axes.set_yticks(range(len(lines)), [f"{line['model']} ({line['seeds']})" for _, line in reversed(lines)])
        axes.set_xlabel("test AUC: dot, with 95 % interval; of never-seen candidates: cross\n(seeds in brackets)")
        axes.grid(alpha=0.3, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.35, 1.0), frameon=False)
