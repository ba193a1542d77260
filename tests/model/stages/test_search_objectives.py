"""The losses that teach search: the mass over all behaviors, and the behavior that comes next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from model.stages.objective.mass_over_all import MassOverAll
from model.stages.objective.next_behavior import NextBehavior
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


@pytest.mark.parametrize("name", ["mass_over_all", "next_behavior"])
def test_what_no_target_sees_teaches_nothing(name: str) -> None:
    model, objective = taught(name)
    b = batch(40, [12, 12])
    other = batch(40, [12, 12], seed=3)
    later = torch.arange(40) >= 12
    changed = replace(b, **{field: torch.where(later, getattr(other, field), getattr(b, field)) for field in ("item_L", "category_L")})
    label = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert objective(model.views([b]), label).item() == pytest.approx(objective(model.views([changed]), label).item(), abs=1e-12)


@pytest.mark.parametrize("name", ["mass_over_all", "next_behavior"])
@pytest.mark.parametrize("length", [0, 1, 2])
def test_hardly_any_history_gives_finite_gradients(name: str, length: int) -> None:
    model, objective = taught(name)
    label = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    views = model.views([batch(length, [length])])
    (model.logits(views).sum() + objective(views, label)).backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


def test_the_next_behavior_is_found_among_the_others() -> None:
    model, found = taught("next_behavior", pairs=5, weight=2.0)
    objective = cast(NextBehavior, found)
    views = model.views([batch(40, [30, 38]), batch(9, [4], seed=1)])
    chosen = [objective.chosen(view).tolist() for view in views]
    assert [len(at) for at in chosen] == [5, 3] and all(len(set(at)) == len(at) for at in chosen)
    assert max(chosen[0]) + 1 < 30 and max(chosen[1]) + 1 < 4, "both of a pair are seen by every target"
    pairs = [(view.attn.behavior_LD[j], view.attn.behavior_LD[j + 1]) for view, at in zip(views, chosen, strict=True) for j in at]
    expected = 0.0
    for i, (first, _) in enumerate(pairs):
        scores = np.array([float((first @ following).detach()) / np.sqrt(10) for _, following in pairs])
        expected += np.log(np.exp(scores).sum()) - scores[i]
    loss = objective(views, torch.zeros(9, dtype=torch.float64))
    assert loss.item() == pytest.approx(2 * expected / len(pairs), rel=1e-9)
    assert objective.chosen(model.views([batch(40, [30, 39])])[0]).tolist() != chosen[0], "other targets, other pairs"


@pytest.mark.parametrize(
    ("name", "options", "message"), [("mass_over_all", {"weight": 0.0}, "weight"), ("next_behavior", {"pairs": 1}, "pairs")]
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} must be"):
        configured("objective", StageSpec(name, options))
