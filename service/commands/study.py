"""`dare study search-quality`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import TrainConfig, default_preset
from model.data.impressions import impression_targets
from model.data.log import InteractionLog
from model.data.protocol import ProtocolConfig, split_targets
from model.evaluate import train_config
from model.ideal_search import ideal_forms
from model.mutual_information import InformationError, Informed, MutualInformation
from model.runtime import ScoringRuntime
from model.search_quality import Judge, Quality, Truth, bounds, rules, runtime_quality
from service.commands.configuration import changed
from service.commands.data import read
from service.commands.study_report import about, write_report
from service.commands.terminal import console, emit, progress_bar, table

_COLUMNS = ("recall", "ndcg", "auc_of_kept", "auc", "log_loss")
_RELEVANCE, _INFORMATION = "Known relevance", "Mutual information"
_NOTE = (
    "Recall: worth of the kept behaviors over the most that K behaviors can hold, NDCG the same in the order of search, means over the "
    "candidates that have anything of worth before them. AUC of kept ranks candidates by the worth kept. Worth is the known relevance, or "
    "the mutual information between the click and a behavior of that category at that distance (docs/model.md)."
)


def search_quality_command(
    data: Path,
    artifacts: Path | None,
    version: str | None,
    kept: int,
    most: int,
    impressions: bool,
    seed: int,
    settings: list[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """See `dare study search-quality`."""
    runtime = ScoringRuntime.load(artifacts, version) if artifacts is not None else None
    kept = runtime.max_kept if runtime is not None else kept
    protocol = _protocol(default_preset(seed) if runtime is None else train_config(runtime), settings)
    log = read(data, skip_bad_rows=False)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    reason = f"{data} has no truth/: relevance is known of `dare data synthetic` alone"
    if (data / "truth").is_dir():
        truth = Truth.read(data, log, protocol.train_share + protocol.validation_share)
        with console.status("rules that need no model"):
            found[_RELEVANCE] = {**bounds(truth, log, kept, seed), **ideal_forms(data, truth, log, kept)}
        _judge_model(runtime, truth, log, found[_RELEVANCE])
    try:
        found[_INFORMATION] = _by_information(data, log, protocol, runtime, kept, most, impressions, seed)
    except InformationError as error:
        if not found:
            raise ValueError(f"{reason}; and {error}") from error
        console.print(f"no mutual information: {error}", markup=False)
    tables = {heading: _rows(figures) for heading, figures in found.items()}
    for heading, rows in tables.items():
        table(f"{heading}, test candidates of {data}, {kept} kept", rows)
    report = {"kept": kept, "settings": settings, "relevance": found.get(_RELEVANCE), "mutual_information": found.get(_INFORMATION)}
    if out is not None:
        name = f"{time.strftime('%Y-%m-%d', time.gmtime())}-search-quality"
        write_report(out, name, "What search keeps", _NOTE, {**about(log), **report}, tables)
        _plot(tables, out / f"{name}.png")
        console.print(f"written to {out}: {name}.md, .json, .png", markup=False)
    emit(report, as_json)


def _protocol(config: TrainConfig, settings: list[str]) -> ProtocolConfig:
    """Where the test begins and what its targets are. Raises: ValueError for a setting of something else."""
    found = changed(config, settings)
    if replace(found, protocol=config.protocol) != config:
        raise ValueError(f"search-quality trains nothing: --set takes fields of protocol alone, got {', '.join(settings)}")
    return found.protocol


def _by_information(
    data: Path,
    log: InteractionLog,
    protocol: ProtocolConfig,
    runtime: ScoringRuntime | None,
    kept: int,
    most: int,
    impressions: bool,
    seed: int,
) -> dict[str, dict[str, Any]]:
    with console.status("mutual information of the training targets"):
        targets = impression_targets(data, log, protocol) if impressions else split_targets(log, protocol)
        information = MutualInformation.fit(log, targets, seed)
        judge = Informed.read(log, targets, information, most, seed)
        figures: dict[str, dict[str, Any]] = {
            "measure": {
                "training_candidates": information.candidates,
                "informative_pairs": len(information.key),
                "candidates": len(judge.user),
            },
            **rules(judge, log, kept, seed),
        }
    _judge_model(runtime, judge, log, figures)
    return figures


def _judge_model(runtime: ScoringRuntime | None, judge: Judge, log: InteractionLog, figures: dict[str, dict[str, Any]]) -> None:
    if runtime is None:
        return
    with progress_bar() as bar:
        task = bar.add_task("searching", total=None, note="")
        quality: Quality = runtime_quality(runtime, judge, log, lambda done, of: bar.update(task, completed=done, total=of))
    figures[runtime.version] = dict(quality)


def _rows(figures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    shown = {name: found for name, found in figures.items() if name != "measure"}
    return [{"search": name} | {column: found.get(column, "-") for column in _COLUMNS} for name, found in shown.items()]


def _plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(tables), figsize=(5 * len(tables), 3.2), layout="constrained", squeeze=False)
    for axis, (heading, rows) in zip(axes[0], tables.items(), strict=True):
        shown = [row for row in rows if row["recall"] != "-"]
        place = range(len(shown))
        axis.barh([p + 0.2 for p in place], [row["recall"] for row in shown], height=0.4, label="recall")
        axis.barh([p - 0.2 for p in place], [row["ndcg"] for row in shown], height=0.4, label="NDCG")
        axis.set_yticks(list(place), [row["search"] for row in shown])
        axis.set_title(heading)
        axis.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
