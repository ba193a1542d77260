"""Recency counted in sessions, and the bonus of the target's own category, as they are served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import kernel_scoring
from model.config import ModelConfig, StageSpec
from model.dataset import prepare
from model.export import export
from model.item_hash import hash_item_ids
from model.recency import bucket_of_recency, sessions_back
from model.runtime import ScoringRuntime
from model.stages.registry import scoring_path
from model.train import build
from tests.conftest import Tiny, tiny_config
from tests.model.small_models import batch, logits, made
from tests.model.test_two_stage import kept_of

PLAIN = ModelConfig(attn_width=5, repr_width=6, kept=20, hidden=(9, 4), features=False)
DAY = 86_400


@pytest.mark.parametrize(
    ("times", "back"),
    [
        ([], []),
        ([7], [1]),
        ([0, 0, 1800, 3600], [1, 1, 1, 1]),
        ([0, 1801, 1802, 9000], [3, 2, 2, 1]),
        ([0, 0, DAY, DAY, 3 * DAY], [3, 3, 2, 2, 1]),
    ],
    ids=["none", "one", "half an hour at most", "longer gaps", "whole days"],
)
def test_sessions_back_at_known_times(times: list[int], back: list[int]) -> None:
    assert sessions_back(np.array(times, dtype=np.int64)).tolist() == back


def timed(length: int, seen: list[int], gap_s: int, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Times of behaviors, of which a share follow the one before after a gap, and of targets."""
    gap = np.where(np.random.default_rng(length).random(length) < share, gap_s, 1800)
    time_L = np.cumsum(gap)
    return torch.from_numpy(time_L), torch.from_numpy(time_L[np.maximum(seen, 1) - 1] + 10**6)


def test_a_behaviors_recency_is_its_session_in_scores_and_content() -> None:
    model = made(replace(PLAIN, sessions=True), std=0.7).eval()
    seen = [0, 5, 40, 63]
    time_L, time_T = timed(63, seen, 1801, 0.3)
    b = replace(batch(63, seen), time_L=time_L, time_T=time_T)
    kept, view = kept_of(model, b), model.views([b])[0]
    own, table = (model.state_dict()[f"tables.{t}.recency.weight"].numpy() for t in (0, 1))
    interest = model.pooling(b, kept, view.content).detach().numpy()
    for row in range(12):
        length, valid = seen[row // 3], kept.valid_MK[row].numpy()
        place, score = kept.index_MK[row].numpy()[valid], kept.score_MK[row].detach().numpy()[valid]
        assert valid.sum() == min(20, length)
        bucket = bucket_of_recency()[sessions_back(time_L.numpy()[:length])]
        every = view.attn.target_MD[row].detach().numpy() @ view.attn.behavior_LD.detach().numpy()[:length].T / np.sqrt(10)
        every = (
            every
            + own[bucket] @ own[0] / np.sqrt(5)
            + model.score.bonus.item() * (b.item_key_L[:length] == b.target_key_TC.flatten()[row]).numpy()
        )
        np.testing.assert_allclose(score, every[place], atol=1e-11)
        np.testing.assert_allclose(np.sort(score), np.sort(every)[-20:], atol=1e-11, err_msg="search orders by sessions as well")
        weight = np.exp(score - score.max(initial=0.0))
        pooled = weight @ table[bucket[place]] / max(weight.sum(), 1e-300)
        np.testing.assert_allclose(interest[row, -6:], pooled, atol=1e-11)


def test_where_every_behavior_is_a_session_nothing_changes() -> None:
    counted, plain = made(replace(PLAIN, sessions=True)), made(PLAIN)
    time_L, time_T = timed(63, [0, 30, 63], 1801, 1.0)
    b = batch(63, [0, 30, 63])
    np.testing.assert_allclose(logits(counted, replace(b, time_L=time_L, time_T=time_T)), logits(plain, b), atol=1e-12)


def test_sessions_with_stages_that_a_graph_scores_are_refused_when_configured() -> None:
    with pytest.raises(
        ValueError, match="sessions are served with exact search and target attention alone, not with search stage 'everything'"
    ):
        scoring_path(replace(PLAIN, sessions=True, search=StageSpec("everything")))


def test_the_category_bonus_is_served_in_steps_and_in_blocks(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history told in steps has the categories of one told at once; many candidates are searched a block at a time."""
    config = tiny_config(same_category_bonus=True, features=False, feature_bins=0)
    data = prepare(tiny.log, config)
    model = build(config, data).eval()
    assert model.score.category_bonus is not None
    found = {}
    for bonus in (0.0, 3.0):
        with torch.no_grad():
            model.score.category_bonus.fill_(bonus)
        runtime = ScoringRuntime.load(tmp_path, export(model, data, config, {"test": {}}, tmp_path))
        item_hash = hash_item_ids(tiny.log.item_id)
        items, times = item_hash[tiny.log.item[:90]], tiny.log.timestamp[:90]
        candidates = np.append(item_hash, hash_item_ids(["nobody knows it"]))
        whole = runtime.score(runtime.prepare(items, times), candidates, runtime.as_of, explain=20)
        steps = runtime.extend(runtime.extend(runtime.prepare(items[:1], times[:1]), items[1:40], times[1:40]), items[40:], times[40:])
        np.testing.assert_array_equal(runtime.score(steps, candidates, runtime.as_of).click_probability_N, whole.click_probability_N)
        with monkeypatch.context() as patched:
            patched.setattr(kernel_scoring, "_CELLS", 100)
            blocks = runtime.score(runtime.prepare(items, times), candidates, runtime.as_of)
        np.testing.assert_allclose(blocks.click_probability_N, whole.click_probability_N, rtol=0, atol=1e-6)
        assert len(runtime.score(steps, candidates[:0], runtime.as_of).click_probability_N) == 0
        assert whole.kept is not None
        found[bonus] = whole.kept
    catalogue = runtime.catalogue
    row = catalogue.category_row[catalogue.category[catalogue.places(candidates)]]
    row_L = catalogue.category_row[catalogue.category[catalogue.places(items)]]
    own = (row_L[found[3.0].index_NE] == row[:, None]) & (row[:, None] > 1)
    assert (own.sum(axis=1) == np.minimum(20, (row_L == row[:, None]).sum(axis=1)))[row > 1].all(), "they come first"
    unknown = row <= 1
    assert unknown.sum() > 1
    np.testing.assert_array_equal(found[3.0].score_NE[unknown], found[0.0].score_NE[unknown])
