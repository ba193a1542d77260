"""`dare study gradient-conflict`."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.data.impressions import impression_targets
from model.dataset import prepare
from model.gradient_conflict import FIELDS, gradient_conflict
from model.rivals import rival
from service.commands.configuration import preset_config, said, studied
from service.commands.data import read
from service.commands.study_report import about, drawing, write_report
from service.commands.terminal import console, emit, progress_bar, table

_NOTE = (
    "One set of tables for attention and content (TWIN). At every step of one training each table's gradient is taken apart: what the loss "
    "asks through attention scores, and what it asks through content; their sum is what the optimiser applies. A row counts in a step that "
    "reaches it through both. `below 0`: the two point into opposite half-spaces. `attention / content`: ratio of the norms, median."
)
_SHOWN = {
    "row steps": "row_steps",
    "row steps below 0": "share_of_row_steps_below_0",
    "rows with mean below 0": "share_of_rows_with_mean_below_0",
    "steps below 0": "share_of_steps_below_0",
    "mean cosine": "mean_cosine",
    "attention / content, row": "attention_over_content_of_row",
    "attention / content, step": "attention_over_content_of_step",
}


def gradient_conflict_command(
    data: Path, out: Path, preset: str, epochs: int | None, seed: int, settings: list[str], threads: int, impressions: bool, as_json: bool
) -> None:
    """See `dare study gradient-conflict`."""
    config = studied(preset_config(preset, seed, threads), settings)
    planned = 1 if config.rates_restart else config.epochs  # nothing is validated here, so nothing says when to stop
    config = replace(config, name="twin", model=rival("twin", config.model), epochs=epochs or planned)
    log = read(data, skip_bad_rows=False)
    with console.status("preparing") as status:
        targets = impression_targets(data, log, config.protocol) if impressions else None
        dataset = prepare(log, config, lambda text: status.update(f"preparing: {text}"), targets)
    with progress_bar() as bar:
        task = bar.add_task("training", total=None, note="")
        found = gradient_conflict(config, dataset, lambda done, of: bar.update(task, completed=done, total=of))
    rows = []
    for name in FIELDS:
        rows.append(_row(name, found[name]))
        rows += [_row(f"{name}, fifth {i + 1}", part) for i, part in enumerate(found[f"{name}_by_fifth"])]
    table(f"{preset}, shared tables, {data}", rows)
    report = {"preset": preset, "seed": seed, "settings": settings, **found}
    name = f"{time.strftime('%Y-%m-%d', time.gmtime())}-gradient-conflict"
    write_report(
        out, name, "Attention against content in one table", _NOTE + said(settings), {**about(log), **report}, {f"preset {preset}": rows}
    )
    _plot(found, out / f"{name}.png")
    console.print(f"written to {out}: {name}.md, .json, .png", markup=False)
    emit(report, as_json)


def _row(name: str, figures: dict[str, Any] | None) -> dict[str, Any]:
    return {"table": name} | {title: "-" if figures is None else figures[key] for title, key in _SHOWN.items()}


def _plot(found: dict[str, Any], path: Path) -> None:
    with drawing(path, 6, 3.4) as axes:
        for name in FIELDS:
            count = found[name]["histogram"]
            share = [value / max(1, sum(count)) for value in count]
            axes.stairs(share, [-1 + 2 * i / len(count) for i in range(len(count) + 1)], label=f"{name} rows")
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set_xlabel("cosine between the gradients through attention and through content")
        axes.set_ylabel("share of rows x steps")
        axes.legend()
