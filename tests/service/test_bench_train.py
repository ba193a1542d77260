"""`dare bench train` trains the same model three ways; what differs is not timed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model.config import TrainConfig, paper_preset
from service.bench import training
from service.cli import app
from tests.conftest import Tiny, write_tidy


@pytest.fixture
def config() -> TrainConfig:
    config = paper_preset()
    small = replace(config.model, longest=60, kept=5, attn_width=3, repr_width=4, hidden=(12, 6))
    return replace(config, model=small, rows_per_step=150, min_item_count=2)


def test_the_plain_model_has_our_losses_and_a_different_one_is_refused(
    tiny: Tiny, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = training.problem(tiny.log, config, 3)
    assert training.gate(given) <= 1e-6
    assert torch.get_default_dtype() == torch.float32
    monkeypatch.setattr("service.bench.plain_training._HIDDEN_SCORE", 0.0)  # padding joins the softmax
    with pytest.raises(SystemExit, match=r"the plain model's loss is .* from ours, relatively; nothing was timed"):
        training.gate(given)


def test_the_plain_model_needs_a_length(tiny: Tiny, config: TrainConfig) -> None:
    given = training.problem(tiny.log, replace(config, model=replace(config.model, longest=None)), 1)
    with pytest.raises(ValueError, match="longest must be a number"):
        training.plain(given)


def test_a_step_of_long_histories_counts_what_its_rows_see(tiny: Tiny, config: TrainConfig) -> None:
    given = training.problem(tiny.log, replace(config, targets_per_chunk=4), 1)
    one = training.with_histories(given, 500, users=2)
    assert one.rows == 2 * 4 * 3 and one.behaviors() == one.rows * 500
    found = training.by_length(given, [200, 400], users=2, repeats=1)
    assert [row["length"] for row in found] == [200, 400] and all(row["ms"] > 0 for row in found)
    assert training.linearity([1, 2, 3], [5, 7, 9]) == pytest.approx({"a": 3, "b": 2, "largest_relative_error": 0}, abs=1e-9)


def test_an_interpreter_without_fuxictr_is_refused_by_what_it_said(tiny: Tiny, config: TrainConfig) -> None:
    given = training.problem(tiny.log, config, 1)
    python = Path(getattr(sys, "_base_executable", sys.executable))
    with pytest.raises(ValueError, match="FuxiCTR does not start: ModuleNotFoundError"), training.fuxictr(given, python):
        pass


def test_the_command_measures_reports_and_names_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.bench.timing._LEAST_ROUNDS", 1)
    folder = write_tidy(tmp_path / "data", users=8, items=60, categories=4, longest=100)
    arguments = ["--data", str(folder), "--seconds", "0", "--length", "100", "--out", str(tmp_path), "--json"]
    ran = CliRunner().invoke(app, ["bench", "train", *arguments])
    assert ran.exit_code == 0, ran.output
    answer = json.loads(ran.stdout)
    assert [(row["setup"], row["side"]) for row in answer["rows"]] == [
        ("as published, L = 200", "ours"),
        ("as published, L = 200", "plain torch"),
        ("whole histories", "ours"),
    ]
    assert "FuxiCTR" in answer["left_out"] and answer["gate"]["largest_relative_difference_of_losses"] <= 1e-6
    (text,) = tmp_path.glob("*-training.txt")
    assert "left out: FuxiCTR" in text.read_text() and "wanted >= 20,000" in text.read_text()
