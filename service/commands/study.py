"""`dare study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.evaluate import train_config
from model.runtime import ScoringRuntime
from model.search_quality import Truth, bounds, runtime_quality
from service.commands.data import read
from service.commands.terminal import console, emit, progress_bar, table

_COLUMNS = ("recall", "ndcg", "auc_of_kept", "auc", "log_loss")


def search_quality_command(data: Path, artifacts: Path | None, version: str | None, kept: int, seed: int, as_json: bool) -> None:
    """See `dare study search-quality`."""
    runtime = ScoringRuntime.load(artifacts, version) if artifacts is not None else None
    kept = runtime.max_kept if runtime is not None else kept
    log = read(data, skip_bad_rows=False)
    share = 0.8
    if runtime is not None:
        protocol = train_config(runtime).protocol
        share = protocol.train_share + protocol.validation_share
    truth = Truth.read(data, log, share)
    with console.status("rules that need no model"):
        found: dict[str, dict[str, Any]] = dict(bounds(truth, log, kept, seed))
    if runtime is not None:
        with progress_bar() as bar:
            task = bar.add_task("searching", total=None, note="")
            quality = runtime_quality(runtime, truth, log, lambda done, of: bar.update(task, completed=done, total=of))
        found[runtime.version] = dict(quality)
    rows = [{"search": name} | {column: figures.get(column, "-") for column in _COLUMNS} for name, figures in found.items()]
    table(f"{len(truth.user):,} test targets of {data}, {kept} kept", rows)
    emit({"kept": kept, **found}, as_json)
