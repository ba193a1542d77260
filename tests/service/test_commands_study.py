"""The studies, really run on a small folder: what they write, that they resume, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from model.stages.registry import scoring_path
from service.commands.options_study import OPTIONS, base_config
from service.commands.rivals_study import MAIN, SLOWER, rows_of
from tests.conftest import write_tidy
from tests.service.dare_command import Dare, dare, refused

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
    ours = {"dare + mass + matches", "the same, search taught", "demo", "default", "default, live"}
    assert models == {*ours, "counts", "gbdt", "gbdt, live"}
    for lines in ran.json["tables"].values():
        assert all(0.3 < line["auc"] <= 1 and line["log_loss"] > 0 for line in lines)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    text = (tmp_path / "rivals.md").read_text()
    assert "| twin | 1 |" in text and "dare study rivals" in text and (tmp_path / "rivals.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "rivals.json").read_text())["tables"] == ran.json["tables"]
    again = dare(*arguments)
    assert again.json["tables"] == ran.json["tables"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == written, "finished cells are read"


def test_where_relevance_is_known_models_are_judged_by_it(dare: Dare, tmp_path: Path) -> None:
    data = tmp_path / "data"
    made = ("--users", 12, "--length", 120, "--items", 60, "--moments", 20)
    assert dare("data", "synthetic", "--out", data, *made).code == 0
    arguments = ("--group", "plain", "--seeds", 1, "--impressions", "--set", "epochs=1")
    ran = dare("study", "rivals", "--data", data, "--out", tmp_path, *arguments, "--json")
    assert ran.code == 0, ran.err
    assert "Trained with `epochs=1`" in ran.json["note"]
    ((_, lines),) = ran.json["tables"].items()
    recall = {line["model"]: line["recall"] for line in lines}
    assert recall.pop("counts") == "-", "what reads everything searches nothing"
    assert set(recall) == {"dare + mass + matches", "the same, search taught"}
    assert all(0 < value < 1 for value in recall.values())
    cell = json.loads((tmp_path / "cells/plain-seed0.json").read_text())
    assert cell["identity"]["config"]["epochs"] == 1 and (tmp_path / "artifacts" / cell["figures"]["version"]).is_dir()
    ran = dare("study", "rivals", "--data", data, "--out", tmp_path, "--group", "live", "--set", "epochs=1", "--json")
    assert ran.code == 0, "counters that live on are no part of an artifact, so that these are not judged" + ran.err
    assert {line["recall"] for lines in ran.json["tables"].values() for line in lines} == {"-"}
    unserved = ("--model", "dare", "--model", "din", "--group", "published", "--seeds", 1, "--impressions", "--set", "model.ages=true")
    refused(dare("study", "rivals", "--data", data, "--out", tmp_path, *unserved), "ages are served with exact search")
    assert not (tmp_path / "cells/dare-seed0.json").exists(), "said before the first is trained"


def test_lengths_are_compared_seed_by_seed(dare: Dare, folder: Path, tmp_path: Path) -> None:
    settings = ("--set", "model.kept=10", "--set", "protocol.test_targets=6")
    arguments = ("--data", folder, "--out", tmp_path, "--seeds", 1, "--base", "demo", "--length", 20, *settings, "--json")
    ran = dare("study", "length", *arguments)
    assert ran.code == 0, ran.err
    rows = {(line["model"], line["newest"]): line["whole ahead by"] for line in ran.json["rows"]}
    assert set(rows) == {("demo", 20), ("demo", "whole"), ("counts", 20), ("counts", "whole"), ("dare, as published", 200)}
    assert [key for key, ahead in rows.items() if ahead == "-"] == [("demo", "whole"), ("counts", "whole")]
    assert all(text in ran.json["note"] for text in ("demo: what `make serve` trains", "`model.kept=10`"))
    cells = {path.stem: json.loads(path.read_text())["identity"]["config"] for path in (tmp_path / "cells").glob("*.json")}
    assert {name: cell["model"]["kept"] for name, cell in cells.items() if not name.startswith("counts")} == {
        "demo-newest20-seed0": 10,
        "demo-seed0": 10,
        "dare-seed0": 10,
    }
    assert all(cell["protocol"]["test_targets"] == 6 for cell in cells.values()), "a baseline is tested on the same rows"
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "length.md", "length.json", "length.png"}


def test_width_is_weighed_against_the_time_of_search(dare: Dare, folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", folder, "--out", tmp_path, "--seeds", 1, "--width", 4, "--width", 64, "--json")
    ran = dare("study", "width", *arguments)
    assert ran.code == 0, ran.err
    narrow, wide = ran.json["rows"]
    assert (narrow["attn_width"], wide["attn_width"], wide["time of 64"], wide["ahead of 64"]) == (4, 64, "100%", "-")
    assert narrow["search_ms"] < wide["search_ms"], "a key of 8 numbers against one of 128, interleaved"
    assert {path.name for path in tmp_path.iterdir()} == {"width", "width.md", "width.json", "width.png"}


def test_options_are_weighed_against_the_model_without_them(dare: Dare, folder: Path, tmp_path: Path) -> None:
    some = ("without mass", "with ages", "with sessions", "with search taught by ranking")
    chosen = [part for name in some for part in ("--option", name)]
    ran = dare("study", "options", "--data", folder, "--out", tmp_path, "--seeds", 1, "--base", "plain", *chosen, "--json")
    assert ran.code == 0, ran.err
    ((heading, lines),) = ran.json["tables"].items()
    assert heading.startswith("plain") and lines[0]["model"] == "plain"
    assert [line["model"] for line in lines[1:]] == list(some)
    assert all(line["low"] <= float(line["difference"].split()[0]) + 1e-4 <= line["high"] + 2e-4 for line in lines[1:])
    assert {path.name for path in tmp_path.iterdir()} == {"cells", "options.md", "options.json", "options.png"}
    refused(dare("study", "options", "--data", folder, "--base", "x"), "'x'")
    refused(dare("study", "options", "--data", folder, "--option", "x"), "'x'", "without mass")
    one = dare("study", "options", "--data", folder, "--out", tmp_path, "--seeds", 1, "--option", "with ages", "--base", "plain", "--json")
    ((_, few),) = one.json["tables"].items()
    assert few == [line for line in lines if line["model"] in ("plain", "with ages")]
    other = ("--seeds", 1, "--option", "with ages", "--base", "plain", "--set", "model.kept=10")
    refused(dare("study", "options", "--data", folder, "--out", tmp_path, *other), "config.model.kept is 50 there, 10 here")


def test_every_option_is_a_model_that_the_kernels_serve() -> None:
    for option, of in [(one, base) for one in OPTIONS for base in one.bases]:
        base = base_config(of, 0, 1)
        config = replace(base, model=replace(base.model, **option.model), **option.train)
        assert config != base and scoring_path(config.model) == "kernels", option.name


def test_a_study_keeps_what_it_is_about_from_set() -> None:
    settings = ["model.kept=7", "learning_rate=0.5", "protocol.negatives=3", "model.objectives=[]"]
    cells = {cell.name: cell for row in rows_of(["dare", "sim_soft"], 1, 100, 1, settings) for cell in row.cells}
    assert {cell.config.protocol.negatives for cell in cells.values()} == {3}
    models = {name: cell.config for name, cell in cells.items() if cell.kind == "two_stage"}
    assert {config.model.kept for config in models.values()} == {7} and models["dare-seed0"].model.longest == 100
    assert models["dare-seed0"].learning_rate == 0.5 and models["dare-slower-seed0"].learning_rate == 0.002
    assert models["sim_soft-seed0"].model.objectives and models["plain-with-losses-that-teach-search-seed0"].model.objectives
    assert not models["dare-seed0"].model.objectives and not models["demo-seed0"].model.objectives
    assert cells["counts-seed0"].config.model == base_config("default", 0, 1).model
    for setting in ("seed=3", "num_threads=2", 'name="x"'):
        with pytest.raises(ValueError, match=f"--set {setting.partition('=')[0]}=.*this study decides"):
            rows_of(["dare"], 1, None, 1, [setting])


def test_every_seed_of_the_main_rows_and_one_of_the_others() -> None:
    every = rows_of(["dare", "twin", "din", "mean_pool"], 5, None, 1)
    rows = {row.model: len(row.cells) for row in every if row.group != SLOWER}
    assert {name: rows[name] for name in ("dare", "twin", "din", "mean_pool", "counts", "gbdt", "default", "gbdt, live")} == {
        "dare": 5,
        "twin": 5,
        "din": 3,
        "mean_pool": 1,
        "counts": 5,
        "gbdt": 5,
        "default": 5,
        "gbdt, live": 1,
    }
    assert {"dare", "twin"} <= set(MAIN)


def test_what_a_study_cannot_do_is_one_line(dare: Dare, folder: Path, tmp_path: Path) -> None:
    refused(dare("study", "rivals", "--data", folder, "--out", tmp_path, "--model", "bert"), "'bert'", "sim_hard")
    refused(dare("study", "rivals", "--data", folder, "--out", tmp_path, "--group", "x"), "'x'", "slower")
    refused(dare("study", "rivals", "--data", folder, "--out", tmp_path, "--group", "live", "--impressions"), "--impressions")
    refused(dare("study", "width", "--data", folder, "--out", tmp_path, "--preset", "x"), "'x'")
    refused(dare("study", "width", "--data", folder, "--set", "model.attn_width=9"), "model.attn_width")
    refused(dare("study", "length", "--data", folder, "--set", "model.longest=9"), "model.longest")
    refused(dare("study", "options", "--data", folder, "--set", "model.keep=9"), "'keep'")
    refused(dare("study", "gradient-conflict", "--data", folder, "--set", "epochs"), "KEY=JSON", "'epochs'")
    refused(dare("study", "search-quality", "--data", folder, "--set", "model.kept=9"), "protocol alone")
    short = tmp_path / "short"
    short.mkdir()
    rows = [(user, item, 100 * item) for user in range(100) for item in range(5)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_parquet(short / "interactions.parquet")
    refused(dare("study", "rivals", "--data", short, "--out", tmp_path, "--model", "dare"), "no training target", "50 earlier behaviors")
