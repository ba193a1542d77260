"""The losses that teach search: the mass over all behaviors, and a recency bias that is smooth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from model.stages.objective.mass_over_all import MassOverAll
from model.stages.registry import configured
from model.two_stage import TwoStageModel
from tests.model.small_models import batch, made

SMALL = ModelConfig(attn_width=5, repr_width=6, kept=4, hidden=(9, 4), features=False)


def taught(name: str, **options: Any) -> tuple[TwoStageModel, Any]:
    model = made(replace(SMALL, objectives=(StageSpec(name, options),)))
    return model, model.objectives[0]


def test_the_mass_over_all_is_the_sum_that_it_says() -> None:
    model, found = taught("mass_over_all", weight=0.5)
    objective = cast(MassOverAll, found)
    b = batch(40, [3, 40])
    view = model.views([b])[0]
    mass = objective.mass(view).detach().numpy()
    everything = view.attn.target_MD @ view.attn.behavior_LD.T / np.sqrt(2 * 5)
    bias = model.score.recency_bias()
    for m in range(6):
        t, c = divmod(m, 3)
        total = 0.0
        for j in range(int(b.length_T[t])):
            score = everything[m, j] + bias[model.score.bucket[int(b.length_T[t]) - j]]
            score = score + model.score.bonus * bool(b.item_key_L[j] == b.target_key_TC[t, c])
            total += float(torch.exp(score - objective.offset).detach())
        assert mass[m] == pytest.approx(np.log1p(total), rel=1e-9)
    label = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    chance = torch.sigmoid(objective.scale * torch.from_numpy(mass) + objective.base(view.content.target_MR).squeeze(1))
    expected = -(label * chance.log() + (1 - label) * (1 - chance).log()).mean()
    assert objective([view], label).item() == pytest.approx(0.5 * expected.item(), rel=1e-9)


def test_the_mass_counts_what_search_leaves() -> None:
    model, objective = taught("mass_over_all")
    b = batch(40, [40])
    model.zero_grad()
    objective.mass(model.views([b])[0]).sum().backward()
    reached = (model.attn.item.weight.grad[b.item_L].abs().sum(dim=1) > 0).sum()
    assert reached == 40


def test_what_no_target_sees_teaches_nothing() -> None:
    model, objective = taught("mass_over_all")
    b = batch(40, [12, 12])
    other = batch(40, [12, 12], seed=3)
    later = torch.arange(40) >= 12
    changed = replace(b, **{field: torch.where(later, getattr(other, field), getattr(b, field)) for field in ("item_L", "category_L")})
    label = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert objective(model.views([b]), label).item() == pytest.approx(objective(model.views([changed]), label).item(), abs=1e-12)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_hardly_any_history_gives_finite_gradients(length: int) -> None:
    model, objective = taught("mass_over_all")
    label = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    views = model.views([batch(length, [length])])
    (model.logits(views).sum() + objective(views, label)).backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


def test_smoothness_is_the_squared_steps_of_the_bias_of_behaviors() -> None:
    model, objective = taught("smooth_recency", weight=3.0)
    bias = model.score.recency_bias().detach().numpy()
    loss = objective([], torch.zeros(0))
    assert loss.item() == pytest.approx(3.0 * float(((bias[2:] - bias[1:-1]) ** 2).sum()), rel=1e-12)


def test_a_bucket_that_no_history_reaches_follows_its_neighbor() -> None:
    model, objective = taught("smooth_recency", weight=1.0)
    optimizer = torch.optim.Adam(model.attn.recency.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        bias = model.score.recency_bias()
        (((bias[1:70] + 3.0) ** 2).sum() + objective([], torch.zeros(0))).backward()
        optimizer.step()
    assert model.score.recency_bias()[70:].detach().numpy() == pytest.approx(-3.0, abs=0.1)


@pytest.mark.parametrize("name", ["mass_over_all", "smooth_recency"])
def test_bad_options_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"weight must be above 0, got 0\.0"):
        configured("objective", StageSpec(name, {"weight": 0.0}))
