"""Search judged against known relevance: by hand, against plain loops, and of a model as it is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from model.config import ModelConfig, default_preset
from model.data.impressions import impression_targets
from model.data.log import InteractionLog
from model.data.synthetic import write_synthetic
from model.data.synthetic_world import SyntheticConfig
from model.data.tidy import read_tidy
from model.dataset import prepare
from model.evaluate import evaluate_runtime
from model.export import export
from model.ideal_search import ideal_forms
from model.item_hash import hash_item_ids
from model.metrics import auc
from model.runtime import ScoringRuntime
from model.search_quality import Tally, Truth, TruthError, bounds, moments, runtime_quality
from model.train import train
from service.cli import app

WORLD = SyntheticConfig(users=40, length=160, items=300, moments=20, candidates=3, held_share=0.4, half_lives=(20.0, 60.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic")
    write_synthetic(WORLD, path / "data")
    log = read_tidy(path / "data")
    for longest in (None, 50):
        config = replace(
            default_preset(0),
            model=ModelConfig(kept=8, hidden=(16, 8), longest=longest),
            epochs=1,
            evaluations_per_epoch=1,
            rows_per_step=256,
            taste_width=8,
        )
        data = prepare(log, config, targets=impression_targets(path / "data", log, config.protocol))
        export(train(config, data).model, data, config, {"test": {}}, path / f"artifacts-{longest}")
    return path


@pytest.fixture(scope="module")
def log(folder: Path) -> InteractionLog:
    return read_tidy(folder / "data")


@pytest.fixture(scope="module")
def truth(folder: Path, log: InteractionLog) -> Truth:
    return Truth.read(folder / "data", log, 0.8)


def test_recall_ndcg_and_auc_by_hand(truth: Truth) -> None:
    two = replace(truth, label=np.array([1.0, 0.0, 1.0]))
    tally = Tally(two.label, 2)
    relevance = np.array([[0.0, 0.5, 1.0, 0.25], [0.0, 0.0, 0.0, 0.0], [0.0, 0.8, 0.0, 0.0]])
    tally.add(relevance, np.array([[3, 2], [0, 1], [1, -1]]))
    quality = tally.quality()
    assert quality["recall"] == pytest.approx((1.25 / 1.5 + 1) / 2), "a target without relevance has no recall"
    discount = 1 / np.log2(3)
    assert quality["ndcg"] == pytest.approx(((0.25 + 1 * discount) / (1 + 0.5 * discount) + 1) / 2)
    assert quality["auc_of_kept"] == 1.0


def test_the_truth_is_read_back_target_by_target(folder: Path, log: InteractionLog, truth: Truth) -> None:
    raw = pl.read_parquet(folder / "data/truth/targets.parquet").filter(pl.col("position") >= 0.8 * 160)
    relevance = pl.read_parquet(folder / "data/truth/relevance.parquet")
    assert len(raw) == len(truth.user) > 200
    seen = 0
    for rows in moments(truth):
        dense = truth.dense(rows)
        mine = raw.filter(
            (pl.col("user_id") == int(log.user_id[truth.user[rows.start]])) & (pl.col("position") == int(truth.position[rows.start]))
        )
        assert [log.item_id[code] for code in truth.item[rows]] == mine["item_id"].cast(pl.String).to_list()
        for row, target in zip(dense, mine["target"], strict=True):
            part = relevance.filter(pl.col("target") == target)
            assert np.flatnonzero(row).tolist() == part["position"].to_list()
            assert row.sum() == pytest.approx(part["relevance"].sum(), abs=1e-5)
        seen += len(dense)
        if seen > 60:
            break


def test_hard_search_keeps_the_newest_of_the_category(log: InteractionLog, truth: Truth) -> None:
    """Another implementation of the rule, target by target."""
    tally = Tally(truth.label, 4)
    for rows in moments(truth):
        start, length = log.user_start[truth.user[rows.start]], int(truth.position[rows.start])
        kept = np.full((rows.stop - rows.start, 4), -1)
        for i, item in enumerate(truth.item[rows]):
            found = [p for p in reversed(range(length)) if log.item_category[log.item[start + p]] == log.item_category[item]][:4]
            kept[i, : len(found)] = found
        tally.add(truth.dense(rows), kept)
    found_bounds = bounds(truth, log, 4)
    assert found_bounds["newest same category"] == pytest.approx(tally.quality())
    assert found_bounds["oracle"]["recall"] == found_bounds["oracle"]["ndcg"] == 1.0
    assert bounds(truth, log, 160)["newest"]["recall"] == 1.0, "whoever keeps all keeps all relevance"


@pytest.mark.parametrize("longest", [None, 50])
def test_a_served_models_search_is_judged_by_what_it_kept(folder: Path, log: InteractionLog, truth: Truth, longest: int | None) -> None:
    """Every moment prepared anew; kept behaviors found again by their place in the sequence that was given."""
    runtime = ScoringRuntime.load(folder / f"artifacts-{longest}")
    item_hash = hash_item_ids(log.item_id)
    recall, probability = [], np.zeros(len(truth.user))
    for rows in moments(truth):
        start, length = int(log.user_start[truth.user[rows.start]]), int(truth.position[rows.start])
        first = 0 if longest is None else max(0, length - longest)
        part = slice(start + first, start + length)
        state = runtime.prepare(item_hash[log.item[part]], log.timestamp[part])
        scored = runtime.score(state, item_hash[truth.item[rows]], int(truth.timestamp[rows.start]), explain=8)
        assert scored.kept is not None
        probability[rows] = scored.click_probability_N
        for relevance, kept in zip(truth.dense(rows), scored.kept.index_NE, strict=True):
            if relevance.any():
                recall.append(relevance[first + kept[kept >= 0]].sum() / np.sort(relevance)[-8:].sum())
    quality = runtime_quality(runtime, truth, log)
    assert quality["recall"] == pytest.approx(float(np.mean(recall)), abs=1e-6)
    assert quality["auc"] == pytest.approx(auc(truth.label, probability), abs=1e-4)
    assert 0 < quality["recall"] < 1


def test_evaluation_takes_the_logged_labels(folder: Path, log: InteractionLog, truth: Truth) -> None:
    runtime = ScoringRuntime.load(folder / "artifacts-None")
    targets = impression_targets(folder / "data", log, default_preset(0).protocol)
    figures = evaluate_runtime(runtime, log, targets=targets)
    assert figures["num_rows"] == len(truth.label)
    assert figures["num_test"] == truth.label.sum()
    assert figures["auc"] == pytest.approx(runtime_quality(runtime, truth, log)["auc"], abs=1e-4)


def test_ideal_searches_of_a_form_are_ordered_by_what_they_know(tmp_path: Path) -> None:
    world = replace(WORLD, length=600, half_lives=(200.0,))
    write_synthetic(world, tmp_path)
    log = read_tidy(tmp_path)
    found = ideal_forms(tmp_path, Truth.read(tmp_path, log, 0.8), log, 8)
    one_way, either, own = (found[name]["recall"] for name in ("content and recency", "symmetric content and recency", "own topic, newest"))
    assert one_way == pytest.approx(1.0), "with one half-life the form holds the whole truth"
    assert own < either < one_way
    write_synthetic(replace(world, complement=0.0), tmp_path)
    found = ideal_forms(tmp_path, Truth.read(tmp_path, log, 0.8), log, 8)
    assert {figures["recall"] for figures in found.values()} == {1.0}, "without complements the own topic is all there is"


def test_data_without_truth_is_refused(tmp_path: Path, log: InteractionLog) -> None:
    with pytest.raises(TruthError, match="no known relevance, it needs data of `dare data synthetic`"):
        Truth.read(tmp_path, log, 0.8)
    write_synthetic(replace(WORLD, users=41, length=100, moments=5), tmp_path)
    with pytest.raises(TruthError, match="whose user is not in the log"):
        Truth.read(tmp_path, log, 0.8)


def test_the_commands_from_generator_to_study(tmp_path: Path) -> None:
    data, artifacts = str(tmp_path / "data"), str(tmp_path / "artifacts")

    def run(*arguments: str) -> dict[str, object]:
        result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        answer: dict[str, object] = json.loads(result.stdout)
        return answer

    written = run("data", "synthetic", "--out", data, "--users", "20", "--length", "150", "--items", "300", "--moments", "12")
    assert written["impressions"] == 20 * 12 * 5
    trained = run("train", "--data", data, "--out", artifacts, "--preset", "demo", "--impressions", "--kept", "5")
    assert trained["targets"] == "impressions"
    evaluated = run("evaluate", "--data", data, "--artifacts", artifacts, "--impressions", "--counts")
    assert evaluated["num_rows"] == trained["test"]["num_rows"] == evaluated["counts"]["num_rows"]  # type: ignore[index]
    studied = run("study", "search-quality", "--data", data, "--artifacts", artifacts, "--out", str(tmp_path / "report"))
    assert studied["kept"] == 5
    rules = {"oracle", "newest same category", "newest", "random"}
    forms = {"content and recency", "symmetric content and recency", "own topic, newest"}
    assert set(studied["relevance"]) == {"truth", trained["version"]} | rules | forms  # type: ignore[call-overload]
    assert set(studied["mutual_information"]) == {"measure", trained["version"]} | rules  # type: ignore[call-overload]
    assert {path.suffix for path in (tmp_path / "report").glob("20??-??-??-search-quality.*")} == {".md", ".json", ".png"}
    alone = run("study", "search-quality", "--data", data, "--kept", "5")
    assert alone["relevance"]["random"] == studied["relevance"]["random"]  # type: ignore[index]
