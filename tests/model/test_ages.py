"""Ages beside recency: the bucket of a real time gap joins score and content, in training as in serving."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from model.recency import MAX_LENGTH, NUM_AGES, NUM_BUCKETS, PairRuns, bucket_of_hours, bucket_of_recency
from model.stages.registry import scoring_path
from model.two_stage import TwoStageModel
from tests.model.small_models import CATEGORIES, ITEMS, batch, logits
from tests.model.test_two_stage import kept_of

PLAIN = ModelConfig(attn_width=5, repr_width=6, kept=20, hidden=(9, 4), features=False, same_item_bonus=False)
HOUR = 3600


def made(config: ModelConfig, seed: int = 0) -> TwoStageModel:
    torch.manual_seed(seed)
    return TwoStageModel(replace(config, init_std=0.7), ITEMS, CATEGORIES, 0).double().eval()


@pytest.mark.parametrize(("hours", "bucket"), [(0, 0), (1, 4), (2, 6), (3, 8), (24, 18), (168, 29), (8760, 52), (55_108, 63), (10**9, 63)])
def test_age_bucket_at_known_places(hours: int, bucket: int) -> None:
    known = bucket_of_hours()
    assert known[min(hours, len(known) - 1)] == bucket == min(math.floor(4 * math.log2(1 + hours)), NUM_AGES - 1)


@pytest.mark.parametrize("length", [0, 1, 2, 33, 3_000, MAX_LENGTH])
@pytest.mark.parametrize("span_h", [0, 1, 7_000, 10**6])
def test_runs_are_the_buckets_of_every_behavior(length: int, span_h: int) -> None:
    rng, now = np.random.default_rng(length + span_h), 1_500_000_000
    time_L = np.sort(now + 2 * HOUR - rng.integers(0, span_h * HOUR + 3 * HOUR, length))
    time_L[: length // 2] -= time_L[: length // 2] % (24 * HOUR)
    time_L[length // 3 : length // 2] = now - 3 * HOUR  # at a bucket's end
    time_L.sort()
    hours = np.maximum(now - time_L, 0) // HOUR
    age = np.minimum(np.floor(4 * np.log2(1 + hours)), NUM_AGES - 1)
    place = bucket_of_recency()[length - np.arange(length)]
    pair_R, count_R = PairRuns().of(time_L, now)
    np.testing.assert_array_equal(pair_R.repeat(count_R), place * NUM_AGES + age)


def test_scores_and_content_add_the_age_to_the_recency() -> None:
    model = made(replace(PLAIN, ages=True))
    b = batch(63, [5, 40, 63])
    rng = np.random.default_rng(0)
    time_L, time_T = np.sort(rng.integers(0, 400 * 24 * HOUR, 63)), np.array([0, 300 * 24 * HOUR, 500 * 24 * HOUR])
    b = replace(b, time_L=torch.from_numpy(time_L), time_T=torch.from_numpy(time_T))
    values = {name: value.detach().numpy() for name, value in model.state_dict().items()}

    def time_of(table: int, place: int, target: int) -> np.ndarray:
        hours = max(int(time_T[target] - time_L[place]), 0) // HOUR
        age = min(math.floor(4 * math.log2(1 + hours)), NUM_AGES - 1)
        recency = bucket_of_recency()[int(b.length_T[target]) - place]
        return np.asarray(values[f"tables.{table}.recency.weight"][recency] + values[f"tables.{table}.age.weight"][age])

    kept = kept_of(model, b)
    view = model.views([b])[0]
    interest = model.pooling(b, kept, view.content).detach().numpy()
    own = values["tables.0.recency.weight"][0] + values["tables.0.age.weight"][0]
    for row in range(9):
        target = row // 3
        valid = kept.valid_MK[row].numpy()
        place = kept.index_MK[row].numpy()[valid]
        content = view.attn.target_MD[row].detach().numpy() @ view.attn.behavior_LD.detach().numpy()[place].T / math.sqrt(10)
        time = np.array([time_of(0, int(p), target) @ own / math.sqrt(5) for p in place])
        np.testing.assert_allclose(kept.score_MK[row].detach().numpy()[valid], content + time, atol=1e-11)
        seen = range(int(b.length_T[target]))
        every = view.attn.target_MD[row].detach().numpy() @ view.attn.behavior_LD.detach().numpy()[list(seen)].T / math.sqrt(10)
        every = every + np.array([time_of(0, p, target) @ own / math.sqrt(5) for p in seen])
        np.testing.assert_allclose(np.sort(content + time), np.sort(every)[-20:], atol=1e-11, err_msg="search orders by age as well")
        weight = np.exp(content + time - (content + time).max())
        pooled = (weight / weight.sum()) @ np.array([time_of(1, int(p), target) for p in place])
        np.testing.assert_allclose(interest[row, -6:], pooled, atol=1e-11)


def test_without_age_vectors_nothing_changes() -> None:
    aged, plain = made(replace(PLAIN, ages=True)), made(PLAIN)
    with torch.no_grad():
        for table in aged.tables:
            table.age.weight.zero_()
    plain.load_state_dict({name: value for name, value in aged.state_dict().items() if ".age." not in name})
    b = batch(63, [5, 40, 63])
    timed = replace(b, time_L=torch.arange(63) * HOUR, time_T=torch.tensor([10, 50, 90]) * HOUR)
    np.testing.assert_allclose(logits(aged, timed), logits(plain, b), atol=1e-11)
    assert len(aged.attn.recency_PD()) == NUM_BUCKETS * NUM_AGES


def test_a_behavior_after_the_target_by_the_clock_is_as_new_as_can_be() -> None:
    """Clocks differ: a behavior that was posted before the request may say that it comes from later."""
    model = made(replace(PLAIN, ages=True))
    b = batch(30, [30])
    skewed = replace(b, time_L=torch.full((30,), 10**9), time_T=torch.tensor([10**9 - 50 * HOUR]))
    same = replace(skewed, time_T=torch.tensor([10**9]))
    np.testing.assert_allclose(logits(model, skewed), logits(model, same), atol=1e-12)


def test_ages_with_stages_that_a_graph_scores_are_refused_when_configured() -> None:
    assert scoring_path(replace(PLAIN, ages=True)) == "kernels"
    with pytest.raises(
        ValueError, match="ages are served with exact search and target attention alone, not with search stage 'everything'"
    ):
        scoring_path(replace(PLAIN, ages=True, search=StageSpec("everything")))
