"""`dare train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import TrainConfig
from model.data.impressions import impression_targets
from model.data_parallel import Ranks, joined
from model.dataset import Dataset, prepare
from model.export import check_served, export
from model.metrics import without_nan
from model.rivals import rival
from model.stages.registry import reads_times
from model.train import Progress, Trained, evaluate_examples, predict, train
from service.commands.configuration import changed, preset_config
from service.commands.data import read
from service.commands.terminal import console, emit, progress_bar, table


def train_command(
    data: Path,
    out: Path,
    preset: str,
    model: str,
    seed: int,
    longest: int | None,
    epochs: int | None,
    kept: int | None,
    settings: list[str],
    impressions: bool,
    split: str,
    threads: int,
    fresh: bool,
    skip_bad_rows: bool,
    as_json: bool,
) -> None:
    """See `dare train`."""
    config = preset_config(preset, seed, threads)
    stages = rival(model, config.model)
    config = replace(config, name=model, model=replace(stages, ages=stages.ages and reads_times(stages)))
    if longest is not None:
        config = replace(config, model=replace(config.model, longest=longest))
    if epochs is not None:
        config = replace(config, epochs=epochs)
    if kept is not None:
        config = replace(config, model=replace(config.model, kept=kept))
    if split != config.protocol.split:
        config = replace(config, protocol=replace(config.protocol, split=split))
    config = changed(config, settings)
    check_served(config)
    with joined() as ranks:
        console.quiet = not ranks.first
        trained = train_on(data, out, config, fresh, skip_bad_rows, impressions, ranks)
        if trained is not None:
            emit(trained, as_json)


def train_on(
    folder: Path,
    out: Path,
    config: TrainConfig,
    fresh: bool = False,
    skip_bad_rows: bool = False,
    impressions: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any] | None:
    """Train on a tidy folder and export; returns what happened, as plain JSON values, on the first rank alone.

    Args: `impressions` takes the logged impressions with their labels as targets, instead of behaviors and drawn negatives.
    """
    ranks = ranks or Ranks()
    log = read(folder, skip_bad_rows)
    checkpoint = out / ".training" / "checkpoint.pt"
    if fresh:
        checkpoint.unlink(missing_ok=True)
    with console.status("preparing") as status:
        targets = impression_targets(folder, log, config.protocol) if impressions else None
        dataset = prepare(log, config, lambda text: status.update(f"preparing: {text}"), targets)
    console.print(f"{len(dataset.train.chosen):,} training targets of {log.num_users:,} users, {dataset.vocabulary.num_items:,} item rows")
    trained = _with_progress(config, dataset, checkpoint, ranks)
    if not ranks.first:
        return None
    with console.status("scoring the test rows"):
        test = evaluate_examples(predict(trained.model, log, dataset.vocabulary, dataset.test), dataset.test, dataset.vocabulary)
    metrics = {"test": test, "curve": trained.curve, "seconds": round(trained.seconds, 1), "rows_per_s": round(trained.rows_per_s)}
    metrics["targets"] = "impressions" if impressions else "drawn"
    version = export(trained.model, dataset, config, without_nan(metrics), out)
    checkpoint.unlink(missing_ok=True)
    table(f"{version} on the test rows", [test])
    spent = f"trained in {trained.seconds:.0f} s at {trained.rows_per_s:,.0f} rows/s"
    console.print(f"written to {out / version}, now current; {spent}", markup=False, soft_wrap=True)
    return {"version": version, **metrics}


def _with_progress(config: TrainConfig, dataset: Dataset, checkpoint: Path, ranks: Ranks) -> Trained:
    if ranks.size > 1:
        console.print(f"{ranks.size} processes share each step")
    if checkpoint.exists():
        console.print(f"resuming from {checkpoint}", markup=False, soft_wrap=True)
    with progress_bar() as bar:
        task = bar.add_task("training", total=None, note="")

        def report(progress: Progress) -> None:
            best = "" if progress.best_auc is None else f", best validation AUC {progress.best_auc:.4f}"
            note = f"loss {progress.loss:.4f}, {progress.rows_per_s:,.0f} rows/s{best}"
            bar.update(task, completed=progress.step, total=progress.total, note=note)

        try:
            return train(config, dataset, checkpoint, report, ranks)
        except KeyboardInterrupt:
            console.print(f"interrupted; {checkpoint} is kept, run the same command again to resume", markup=False, soft_wrap=True)
            raise
