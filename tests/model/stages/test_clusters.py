"""Search over clusters equals TWIN V2's attention written out in loops, and TWIN's where each behavior is a cluster of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.batch import UserBatch
from model.config import ModelConfig, StageSpec
from model.stages.pooling_content import kept_content
from model.two_stage import TwoStageModel
from tests.model.small_models import batch, logits, made
from tests.model.test_two_stage import SMALL

Vector = np.ndarray[Any, np.dtype[np.float64]]


def config(bits: int, **model: Any) -> ModelConfig:
    return replace(SMALL, attn_width=6, tables="shared", search=StageSpec("clusters", {"bits": bits}), **model)


def clusters(model: TwoStageModel, b: UserBatch, seen: int) -> list[list[int]]:
    """Members of each cluster among the first `seen` behaviors."""
    rows = model.views([b])[0].attn.behavior_LD.detach().numpy()
    planes = cast(Any, model.search).hashes.planes.numpy()
    found: dict[tuple[bool, ...], list[int]] = {}
    for j in range(seen):
        found.setdefault(tuple(float(rows[j] @ planes[:, i]) >= 0 for i in range(planes.shape[1])), []).append(j)
    return list(found.values())


def expected(model: TwoStageModel, b: UserBatch, kept: int) -> list[tuple[Vector, float]]:
    """Interest and mass of every target: weights exp(<q, mean key> + log n) over the best clusters, on mean contents."""
    exact = TwoStageModel(replace(model.config, search=StageSpec("everything")), 30, 7, 0).double()
    exact.load_state_dict({k: v for k, v in model.state_dict().items() if "hashes" not in k})
    view = exact.views([b])[0]
    every = exact.search(b, view.attn)
    scores, contents = every.score_MK.detach().numpy(), kept_content(every, view.content).detach().numpy()
    groups_of = {seen: clusters(model, b, seen) for seen in b.length_T.tolist()}
    found = []
    for m, (score, content) in enumerate(zip(scores, contents, strict=True)):
        groups = groups_of[int(b.length_T[m // 3])]
        value = [np.mean([score[j] for j in group]) + math.log(len(group)) for group in groups]
        best = sorted(range(len(groups)), key=lambda g, value=value: -value[g])[:kept]  # type: ignore[misc]
        total = sum(math.exp(value[g]) for g in best)
        interest = np.zeros(content.shape[1])
        for g in best:
            interest += math.exp(value[g]) / total * np.mean([content[j] for j in groups[g]], axis=0)
        found.append((interest, math.log1p(total)))
    return found


@pytest.mark.parametrize("bonus", [False, True])
@pytest.mark.parametrize(("kept", "bits"), [(3, 4), (20, 3)])
@pytest.mark.parametrize("length", [0, 1, 20, 200])
def test_it_is_cluster_attention(length: int, kept: int, bits: int, bonus: bool) -> None:
    model = made(config(bits, kept=kept, mass=True, same_item_bonus=bonus))
    b = batch(length, sorted({0, length // 2, length}))
    view = model.views([b])[0]
    found, interest = model.interest(view)
    mass = model.mass(found)[:, 0]
    for m, (wanted, wanted_mass) in enumerate(expected(model, b, kept)):
        np.testing.assert_allclose(interest[m].detach().numpy(), wanted, atol=1e-11)
        assert float(mass[m].detach()) == pytest.approx(wanted_mass, abs=1e-11)


def test_one_behavior_a_cluster_is_twin() -> None:
    model = made(config(12, kept=60, mass=True))
    b = batch(63, [63])
    alone = torch.tensor([group[0] for group in clusters(model, b, 63)])
    assert len(alone) > 15
    b = replace(
        b, item_L=b.item_L[alone], category_L=b.category_L[alone], item_key_L=b.item_key_L[alone], length_T=torch.tensor([len(alone)])
    )
    assert {len(group) for group in clusters(model, b, len(alone))} == {1}
    twin = made(replace(model.config, search=StageSpec("exact")))
    twin.load_state_dict({k: v for k, v in model.state_dict().items() if "hashes" not in k})
    np.testing.assert_allclose(logits(model, b), logits(twin, b), atol=1e-11)


def test_later_behaviors_change_no_cluster() -> None:
    model = made(config(2))
    b = batch(90, [40])
    cut = replace(b, item_L=b.item_L[:40], category_L=b.category_L[:40], item_key_L=b.item_key_L[:40])
    np.testing.assert_allclose(logits(model, b), logits(model, cut), atol=1e-11)


def test_too_many_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"bits must be an integer in 1\.\.12, got 13"):
        made(config(13))
