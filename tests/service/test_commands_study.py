"""The studies, really run on a small folder: what they write, that they resume, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from service.commands.options_study import OPTIONS
from service.commands.rivals_study import MAIN, rows_of
from tests.conftest import write_tidy
from tests.service.test_commands import Dare, dare, refused

__all__ = ["dare"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty users without categories, whose ids are integers."""
    made = write_tidy(tmp_path_factory.mktemp("study") / "data", users=30, items=80, categories=5, longest=160)
    frame = pl.read_parquet(made / "interactions.parquet")
    for name in ("user_id", "item_id"):
        frame = frame.with_columns(pl.col(name).str.extract(r"(\d+)$").cast(pl.Int64))
    frame.write_parquet(made / "interactions.parquet")
    (made / "items.parquet").unlink()
    return made


def test_rivals_are_compared_on_the_same_rows_and_resumed(dare: Dare, folder: Path, tmp_path: Path) -> None:
    arguments = ("study", "rivals", "--data", folder, "--out", tmp_path, "--model", "dare", "--model", "twin", "--seeds", 1, "--json")
    ran = dare(*arguments)
    assert ran.code == 0, ran.err
    published, slower, *others = ran.json["tables"].values()
    for lines in (published, slower):
        assert {line["model"] for line in lines} == {"dare", "twin"}
        assert [line["ahead of dare"] == "-" for line in lines] == [line["model"] == "dare" for line in lines]
    models = {line["model"] for lines in others for line in lines}
    assert models == {"dare + mass + matches", "counts", "default", "gbdt", "default, live", "gbdt, live"}
    for lines in ran.json["tables"].values():
        assert all(0.3 < line["auc"] <= 1 and line["log_loss"] > 0 for line in lines)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    text = (tmp_path / "rivals.md").read_text()
    assert "| twin | 1 |" in text and "dare study rivals" in text and (tmp_path / "rivals.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "rivals.json").read_text())["tables"] == ran.json["tables"]
    again = dare(*arguments)
    assert again.json["tables"] == ran.json["tables"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == written, "finished cells are read"


def test_width_is_weighed_against_the_time_of_search(dare: Dare, folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", folder, "--out", tmp_path, "--seeds", 1, "--width", 4, "--width", 64, "--json")
    ran = dare("study", "width", *arguments)
    assert ran.code == 0, ran.err
    narrow, wide = ran.json["rows"]
    assert (narrow["attn_width"], wide["attn_width"], wide["time of 64"], wide["ahead of 64"]) == (4, 64, "100%", "-")
    assert narrow["search_ms"] < wide["search_ms"], "a key of 8 numbers against one of 128, interleaved"
    assert {path.name for path in tmp_path.iterdir()} == {"width", "width.md", "width.json", "width.png"}


def test_options_are_weighed_against_the_model_without_them(dare: Dare, folder: Path, tmp_path: Path) -> None:
    ran = dare("study", "options", "--data", folder, "--out", tmp_path, "--seeds", 1, "--base", "plain", "--json")
    assert ran.code == 0, ran.err
    ((heading, lines),) = ran.json["tables"].items()
    assert heading.startswith("plain") and lines[0]["model"] == "plain"
    assert {line["model"] for line in lines[1:]} == {option.name for option in OPTIONS if option.base == "plain"}
    assert all(line["low"] <= float(line["difference"].split()[0]) + 1e-4 <= line["high"] + 2e-4 for line in lines[1:])
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "options.md", "options.json", "options.png"}
    refused(dare("study", "options", "--data", folder, "--base", "x"), "'x'")


def test_every_seed_of_the_main_rows_and_one_of_the_others() -> None:
    rows = {row.model: len(row.cells) for row in rows_of(["dare", "twin", "mean_pool"], 5, None, 1, impressions=False)}
    assert {name: rows[name] for name in ("dare", "twin", "mean_pool", "counts", "gbdt", "default")} == {
        "dare": 5,
        "twin": 5,
        "mean_pool": 1,
        "counts": 5,
        "gbdt": 5,
        "default": 5,
    }
    assert {"dare", "twin"} <= set(MAIN)
    assert not [row for row in rows_of(["dare"], 1, None, 1, impressions=True) if row.model.endswith("live")], "logged negatives stay"


def test_what_a_study_cannot_do_is_one_line(dare: Dare, folder: Path, tmp_path: Path) -> None:
    refused(dare("study", "rivals", "--data", folder, "--out", tmp_path, "--model", "bert"), "'bert'", "sim_hard")
    refused(dare("study", "width", "--data", folder, "--out", tmp_path, "--preset", "x"), "'x'")
    short = tmp_path / "short"
    short.mkdir()
    rows = [(user, item, 100 * item) for user in range(100) for item in range(5)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(short / "interactions.parquet")
    refused(dare("study", "rivals", "--data", short, "--out", tmp_path, "--model", "dare"), "no training target", "50 earlier behaviors")
