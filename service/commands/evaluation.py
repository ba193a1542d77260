"""`dare evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.data.impressions import impression_targets
from model.evaluate import evaluate_runtime, train_config
from model.runtime import ScoringRuntime
from service.commands.data import read
from service.commands.terminal import emit, progress_bar, table


def evaluate_command(
    data: Path, artifacts: Path, version: str | None, counts: bool, impressions: bool, skip_bad_rows: bool, as_json: bool
) -> None:
    """See `dare evaluate`."""
    runtime = ScoringRuntime.load(artifacts, version)
    log = read(data, skip_bad_rows)
    trained = train_config(runtime)
    targets = impression_targets(data, log, trained.protocol) if impressions else None
    with progress_bar() as bar:
        task = bar.add_task("scoring the test rows", total=None, note="")
        result = evaluate_runtime(runtime, log, lambda done, total: bar.update(task, completed=done, total=total), targets)
    rows: list[dict[str, Any]] = [{"model": runtime.version, **result}]
    answer: dict[str, Any] = {**result, "model_version": runtime.version}
    if counts:
        from model.counts import counts_baseline

        with progress_bar() as bar:
            task = bar.add_task("the counts baseline", total=None, note="index, inputs, fit, test")
            found = counts_baseline(
                log,
                trained.protocol,
                min_item_count=trained.min_item_count,
                targets=targets,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        answer["counts"] = found.figures
        rows.append({"model": "counts", **answer["counts"]})
    table(f"test rows of {data}", rows)
    emit(answer, as_json)
