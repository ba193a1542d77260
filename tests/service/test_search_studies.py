"""`dare study search-quality` and `gradient-conflict` on any tidy folder: text ids, no categories, few users, few behaviors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from service.cli import app


def write(folder: Path, length: int, categories: bool, users: int = 100) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    user = np.repeat(np.arange(users), length)
    # Most of what a user takes is of one kind of four, so that kinds say something about the next click.
    item = np.where(rng.random(len(user)) < 0.8, 4 * rng.integers(0, 7, len(user)) + user % 4, rng.integers(0, 28, len(user)))
    columns: dict[str, Any] = {
        "user_id": [f"user {u}" for u in user],
        "item_id": [f"item/{i}" for i in item],
        "timestamp": np.tile(1_600_000_000 + np.arange(length) * 3600, users),
    }
    if categories:
        columns["category_id"] = [f"kind {i % 4}" for i in item]
    pl.DataFrame(columns).write_parquet(folder / "interactions.parquet")
    return folder


def run(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["study", *map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def test_text_ids_with_categories_are_judged_by_mutual_information(tmp_path: Path) -> None:
    studied = run("search-quality", "--data", write(tmp_path / "data", 90, categories=True), "--kept", 3, "--targets", 200)
    assert studied["relevance"] is None
    assert studied["mutual_information"]["oracle"]["ndcg"] == 1.0
    assert 0 < studied["mutual_information"]["random"]["ndcg"] < 1


def test_without_categories_the_reason_is_said(tmp_path: Path) -> None:
    data = write(tmp_path / "data", 90, categories=False)
    with pytest.raises(ValueError, match=r"has no truth/.*; and no item has a category"):
        run("search-quality", "--data", data)


@pytest.mark.parametrize("study", ["search-quality", "gradient-conflict"])
def test_five_behaviors_a_user_are_too_few_for_a_target(tmp_path: Path, study: str) -> None:
    with pytest.raises(ValueError, match="no training target: it needs 50 earlier behaviors of its user; the longest of 100 users has 5"):
        run(study, "--data", write(tmp_path / "data", 5, categories=True))


def test_gradients_are_compared_without_categories(tmp_path: Path) -> None:
    data = write(tmp_path / "data", 90, categories=False, users=12)
    studied = run("gradient-conflict", "--data", data, "--out", tmp_path / "report", "--epochs", 1)
    assert studied["item"]["row_steps"] > 0
    assert studied["category"]["rows"] == 1, "every item is in the unknown category"
    assert {path.suffix for path in (tmp_path / "report").glob("20??-??-??-gradient-conflict.*")} == {".md", ".json", ".png"}
