"""`dare bench train`."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.config import TrainConfig, demo_preset, paper_preset
from model.data.log import InteractionLog
from service.bench import hardware, report, training
from service.bench.training import Side
from service.commands.data import read
from service.commands.terminal import console, emit, table

STEPS = 8
"""Steps that are trained on over and over; each has other users."""
WANTED = {"as published, L = 200": 20_000, "whole histories": 10_000}
"""Examples a second on one thread that are wanted of us."""
USERS, REPEATS = 4, 5


def bench_train(data: Path, fuxictr_python: Path | None, lengths: list[int], seconds: float, out: Path | None, as_json: bool) -> None:
    """See `dare bench train`."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    log = read(data, False)
    answer: dict[str, Any] = {"machine": hardware.describe(), "example": "one target with one of its candidates", "rows": []}
    with console.status("as published, beside others"):
        answer |= _published(log, fuxictr_python, seconds, answer["rows"])
    with console.status("whole histories"):
        _alone("whole histories", log, demo_preset(), seconds, answer["rows"])
    with console.status("against the length of histories"):
        answer |= _by_length(log, lengths)
    answer["wanted"] = [
        {"what": f"ours, {row['setup']}", "wanted": WANTED[row["setup"]], "measured": row["examples_per_s"]}
        for row in answer["rows"]
        if row["side"] == "ours"
    ]
    for one in answer["wanted"]:
        one["met"] = one["measured"] >= one["wanted"]
    _show(answer)
    if out is not None:
        files = report.write(out, report.stem("training"), _text(answer), answer)
        console.print("written: " + ", ".join(str(file) for file in files), soft_wrap=True)
    emit(answer, as_json)


def _published(log: InteractionLog, python: Path | None, seconds: float, rows: list[dict[str, Any]]) -> dict[str, Any]:
    given = training.problem(log, paper_preset(), STEPS)
    worst = training.gate(given)
    sides = [Side("ours", training.ours(given), given.rows), Side("plain torch", training.plain(given), given.rows)]
    left_out = {}
    with ExitStack() as stack:
        if python is None:
            left_out["FuxiCTR"] = "no interpreter that has it was named (--fuxictr-python)"
        else:
            sides.append(stack.enter_context(training.fuxictr(given, python)))
        rows += _rates("as published, L = 200", sides, training.side_by_side(given, sides, seconds))
    return {"gate": {"largest_relative_difference_of_losses": worst, "steps": training.GATED_STEPS}, "left_out": left_out}


def _alone(setup: str, log: InteractionLog, config: TrainConfig, seconds: float, rows: list[dict[str, Any]]) -> None:
    given = training.problem(log, config, STEPS)
    sides = [Side("ours", training.ours(given), given.rows)]
    rows += _rates(setup, sides, training.side_by_side(given, sides, seconds / 4))


def _rates(setup: str, sides: list[Side], spreads: dict[str, Any]) -> list[dict[str, Any]]:
    ours = sides[0].rows / spreads[sides[0].name].median_ms
    found = []
    for side in sides:
        spread = spreads[side.name]
        rate = {"examples_per_s": round(1e3 * side.rows / spread.median_ms), "p10": round(1e3 * side.rows / spread.p90_ms)}
        rate |= {"p90": round(1e3 * side.rows / spread.p10_ms), "steps": spread.calls}
        found.append({"setup": setup, "side": side.name, **rate, "ours_is_times": round(ours * spread.median_ms / side.rows, 2)})
    return found


def _by_length(log: InteractionLog, lengths: list[int]) -> dict[str, Any]:
    config = demo_preset()
    given = training.problem(log, replace(config, model=replace(config.model, features=False, feature_bins=0)), 1)
    found = training.by_length(given, lengths, USERS, REPEATS)
    answer: dict[str, Any] = {"by_length": found}
    if len(found) > 2:
        seen = [one["behaviors"] for one in found]
        answer["time_is_linear"] = training.linearity(seen, [one["ms"] for one in found])
        if all(one["peak_bytes"] for one in found):
            answer["memory_is_linear"] = training.linearity(seen, [one["peak_bytes"] for one in found])
    return answer


def _show(answer: dict[str, Any]) -> None:
    table("Examples a second, one thread: median, slowest and fastest tenth of the steps", answer["rows"])
    for name, reason in answer["left_out"].items():
        console.print(f"left out: {name}: {reason}", soft_wrap=True)
    if answer["by_length"]:
        table(f"A step of {USERS} users against the length of their histories", _length_rows(answer))


def _length_rows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "behaviors each": one["length"],
            "seen by all rows": int(one["behaviors"]),
            "ms": f"{one['ms']:.1f}",
            "ns per behavior": f"{one['ns_per_behavior']:.2f}",
            "peak MiB": "unknown" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 2**20:.1f}",
        }
        for one in answer["by_length"]
    ]


def _text(answer: dict[str, Any]) -> str:
    gate = answer["gate"]
    parts = [
        "\n".join(f"{name}: {value}" for name, value in answer["machine"].items()),
        f"An example is {answer['example']}. One thread; sides take turns in one run, on the same {STEPS} steps.",
        f"Losses of ours and of plain torch from the same weights, in double precision, over {gate['steps']} steps: they differ by at most "
        f"{gate['largest_relative_difference_of_losses']:.1e}, relatively. Checked before anything was timed.",
    ]
    for rows in (answer["rows"], _length_rows(answer)):
        parts.append("\n".join("  ".join(f"{name}: {value}" for name, value in row.items()) for row in rows))
    parts += [f"left out: {name}: {reason}" for name, reason in answer["left_out"].items()]
    for what, title in (("time_is_linear", "ms"), ("memory_is_linear", "bytes")):
        if what in answer:
            line = answer[what]
            error = f"within {line['largest_relative_error']:.1%}"
            parts.append(f"{title} of a step = {line['a']:.4g} + {line['b']:.4g} x behaviors seen by all rows, {error}")
    for one in answer["wanted"]:
        verdict = "met" if one["met"] else "MISSED"
        parts.append(f"{one['what']}: wanted >= {one['wanted']:,}, measured {one['measured']:,}: {verdict}")
    return "\n\n".join(parts)
