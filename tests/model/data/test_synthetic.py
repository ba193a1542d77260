"""Synthetic lifelong data: its truth is what it says, its bounds and ablations behave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from model.data import synthetic
from model.data.synthetic import probability, standard, write_synthetic
from model.data.synthetic_world import SyntheticConfig, World, live
from model.data.tidy import read_tidy
from model.metrics import auc
from model.search_quality import Truth, bounds

SMALL = SyntheticConfig(users=12, length=300, moments=6, candidates=4)
MEASURED = SyntheticConfig(users=120, moments=20)


def test_relevance_is_the_formula_for_every_behavior() -> None:
    """A plain loop over behaviors and targets."""
    world = World.make(replace(SMALL, items=150))
    life, _ = live(world, 3)
    found = {(t, p): r for t, p, r in zip(life.of_target.tolist(), life.of_position.tolist(), life.relevance.tolist(), strict=True)}
    seen = 0
    for target, (position, topic) in enumerate(zip(life.position.tolist(), life.target_topic.tolist(), strict=True)):
        total = 0.0
        for place in range(position):
            affinity = {topic: 1.0, int(world.complement[topic]): 0.6}.get(int(life.topic[place]), 0.0)
            expected = affinity * (0.1 + 0.9 * 2 ** (-(position - place) / world.half_life[topic]))
            assert found.get((target, place), 0.0) == pytest.approx(expected)
            seen += expected > 0
            total += expected
        assert life.total[target] == pytest.approx(total)
    assert seen == len(found) > 50


def test_the_world_is_as_described() -> None:
    world = World.make(SyntheticConfig())
    assert (len(world.category), int(world.category[-1]) + 1) == (240, 40)
    assert sorted(world.complement.tolist()) == list(range(240))
    assert not (world.complement == np.arange(240)).any()
    assert not (world.complement[world.complement] == np.arange(240)).any(), "complements are one-way"
    assert (world.category[world.complement] != world.category).mean() > 0.9
    assert set(world.half_life.tolist()) == {90.0, 300.0, 900.0}
    assert sorted(world.item_id.tolist()) == list(range(3600))


def test_a_life_is_one_of_bursts_half_of_them_noise() -> None:
    config = SyntheticConfig(length=50_000, drift=1e12)
    life, _ = live(World.make(config), 0)
    assert (life.item // config.items_per_topic == life.topic).all()
    assert (np.diff(life.timestamp) >= 20).all()
    topic_of_burst = life.topic[np.unique(life.burst, return_index=True)[1]]
    assert len(life.item) / len(topic_of_burst) == pytest.approx(10, rel=0.05)
    count = np.sort(np.bincount(topic_of_burst, minlength=240))[::-1] / len(topic_of_burst)
    assert count[:8].sum() == pytest.approx(0.5 + 8 / 480, abs=0.03)
    drifting, _ = live(World.make(replace(config, drift=500)), 0)
    assert np.bincount(drifting.topic, minlength=240).max() < np.bincount(life.topic, minlength=240).max() / 2


def test_the_folder_is_tidy_and_the_truth_is_apart(tmp_path: Path) -> None:
    written = write_synthetic(SMALL, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["impressions.parquet", "interactions.parquet", "items.parquet", "truth"]
    log = read_tidy(tmp_path)
    assert log.describe()["behaviors"] == written["behaviors"] == 12 * 300
    assert (log.num_users, len(log.item_id), len(log.category_id)) == (12, 3600, 40)
    truth = pl.read_parquet(tmp_path / "truth/targets.parquet")
    offered = pl.read_parquet(tmp_path / "impressions.parquet")
    assert offered.columns == ["user_id", "item_id", "timestamp", "label"], "nothing else is in the model's reach"
    assert truth.select(offered.columns).equals(offered)
    items = pl.read_parquet(tmp_path / "items.parquet")
    assert items.columns == ["item_id", "category_id"]
    assert items["item_id"].is_sorted(), "the order tells no topic"
    topics = pl.read_parquet(tmp_path / "truth/items.parquet").join(pl.read_parquet(tmp_path / "truth/topics.parquet"), on="topic")
    assert topics.sort("item_id").select("item_id", "category_id").equals(items)
    parameters = json.loads((tmp_path / "truth/parameters.json").read_text())
    chance = probability(truth["relevance_sum"].to_numpy(), 2.25, parameters["log_relevance_mean"], parameters["log_relevance_spread"])
    assert np.allclose(chance, truth["probability"].to_numpy())
    summed = pl.read_parquet(tmp_path / "truth/relevance.parquet").group_by("target").agg(pl.col("relevance").sum())
    joined = truth.join(summed, on="target", how="left").fill_null(0.0)
    assert np.allclose(joined["relevance"].to_numpy(), joined["relevance_sum"].to_numpy(), atol=1e-4)


def test_the_history_before_a_target_is_the_behaviors_before_its_second(tmp_path: Path) -> None:
    write_synthetic(SMALL, tmp_path)
    behaviors = pl.read_parquet(tmp_path / "interactions.parquet")
    for user, position, second in (
        pl.read_parquet(tmp_path / "truth/targets.parquet").select("user_id", "position", "timestamp").iter_rows()
    ):
        mine = behaviors.filter(pl.col("user_id") == user)["timestamp"].to_numpy()
        assert (mine < second).sum() == (mine <= second).sum() == position


def test_a_seed_gives_the_same_bytes_whatever_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def digest(name: str, config: SyntheticConfig) -> list[pl.DataFrame]:
        write_synthetic(config, tmp_path / name)
        return [pl.read_parquet(path) for path in sorted((tmp_path / name).rglob("*.parquet"))]

    whole = digest("whole", SMALL)
    monkeypatch.setattr(synthetic, "_BATCH_BEHAVIORS", 700)
    monkeypatch.setattr(synthetic, "_BATCH_ITEMS", 1000)
    assert all(a.equals(b) for a, b in zip(whole, digest("parts", SMALL), strict=True))
    assert not whole[0].equals(digest("other", replace(SMALL, seed=1))[0])


def measured(tmp_path: Path, config: SyntheticConfig, kept: int = 20) -> dict[str, dict[str, float | int]]:
    write_synthetic(config, tmp_path)
    log = read_tidy(tmp_path)
    return bounds(Truth.read(tmp_path, log, 0.8), log, kept)


def test_the_bounds_that_the_documents_give(tmp_path: Path) -> None:
    """Of the default world with fewer users; docs/data.md has the figures of all."""
    found = measured(tmp_path, MEASURED)
    assert found["truth"]["auc"] == pytest.approx(0.870, abs=0.015)
    assert found["truth"]["relevant_share"] == pytest.approx(0.013, abs=0.003)
    expected = {"oracle": (1.0, 0.868), "newest same category": (0.443, 0.724), "newest": (0.033, 0.535), "random": (0.019, 0.636)}
    for rule, (recall, kept_auc) in expected.items():
        assert found[rule]["recall"] == pytest.approx(recall, abs=0.04), rule
        assert found[rule]["auc_of_kept"] == pytest.approx(kept_auc, abs=0.03), rule
    assert found["oracle"]["ndcg"] == pytest.approx(1.0)
    assert found["newest same category"]["ndcg"] < 0.5


def test_hard_search_is_optimal_where_a_category_is_a_topic(tmp_path: Path) -> None:
    found = measured(tmp_path, replace(MEASURED, topics_per_category=1, complement=0.0, users=40))
    assert found["newest same category"] == pytest.approx(found["oracle"])
    assert found["newest"]["recall"] < 0.1


def test_labels_are_noise_without_slope(tmp_path: Path) -> None:
    write_synthetic(replace(MEASURED, slope=0.0), tmp_path)
    truth = pl.read_parquet(tmp_path / "truth/targets.parquet")
    assert set(truth["probability"].to_list()) == {0.5}
    assert auc(truth["label"].to_numpy(), truth["relevance_sum"].to_numpy()) == pytest.approx(0.5, abs=0.015)


def test_an_infinite_half_life_forgets_nothing() -> None:
    life, _ = live(World.make(replace(SMALL, half_lives=(float("inf"),))), 0)
    assert set(np.unique(life.relevance)) == {0.6, 1.0}


def test_without_complements_only_the_own_topic_is_relevant() -> None:
    life, _ = live(World.make(replace(SMALL, complement=0.0)), 0)
    assert len(life.of_target) > 0
    assert (life.topic[life.of_position] == life.target_topic[life.of_target]).all()


def test_a_pilot_of_users_standardises_all() -> None:
    few, many = (standard(World.make(replace(SMALL, users=users))) for users in (200, 5000))
    assert few == many


def test_lengths_and_catalogues_of_honest_size() -> None:
    config = SyntheticConfig(users=1, length=100_000, items=10_000_000, moments=2, candidates=2)
    world = World.make(config)
    life, _ = live(world, 0)
    assert len(life.item) == 100_000
    assert life.item.max() < 10_000_000 and len(np.unique(life.item)) > 10_000
    assert life.timestamp[-1] < 2**32
    odd = World.make(SyntheticConfig(items=3607))
    assert odd.items_of(np.full(1000, 240), np.random.default_rng(0)).max() < 3607


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "users must be at least 1, got 0"),
        ({"length": 5}, "length must be at least 10, got 5"),
        ({"items": 30}, "items must be more than 30"),
        ({"moments": 300}, "moments must be at most 240"),
        ({"complement": 1.5}, "complement must be between 0 and 1, got 1.5"),
        ({"half_lives": (90.0, -1.0)}, "half_lives must be positive"),
        ({"half_lives": (float("nan"),)}, "half_lives must be positive"),
        ({"slope": float("inf")}, "slope must be 0 or more"),
        ({"burst": 0.5}, "burst must be at least 1"),
    ],
)
def test_an_impossible_world_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)  # type: ignore[arg-type]
