"""The loss that teaches search what ranking found useful, written out behavior by behavior."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from model.config import ModelConfig, StageSpec
from model.stages.registry import configured
from model.two_stage import TwoStageModel
from tests.model.small_models import batch, made, moments
from tests.model.test_two_stage import parameters
from tests.oracles import dare as oracle

KEPT = 4
SMALL = ModelConfig(attn_width=5, repr_width=6, kept=KEPT, hidden=(9, 4), features=False)
LABEL = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)


def taught(config: ModelConfig = SMALL, **options: Any) -> tuple[TwoStageModel, Any]:
    model = made(replace(config, objectives=(StageSpec("posterior_over_all", options),)), std=0.4).eval()
    return model, model.objectives[0]


def log_likelihood(model: TwoStageModel, moment: oracle.Moment, attended: oracle.Attended, h: oracle.F64, label: float) -> float:
    """log p(y) of a target, were its interest h."""
    x = oracle.features(parameters(model), moment, replace(attended, interest=h), True, False)
    logit = oracle.head(parameters(model), "head", x[None], training=False)
    return -oracle.cross_entropy(logit, [label])


@pytest.mark.parametrize("most", [0.05, 50.0])
@pytest.mark.parametrize("longest", [None, 9])
def test_it_is_the_expected_gain_in_likelihood_that_it_says(most: float, longest: int | None) -> None:
    model, objective = taught(replace(SMALL, longest=longest), most=most, weight=0.5)
    b = batch(15, [3, 15])
    values, losses, of_bonus = parameters(model), [], 0.0
    for moment, label in zip(moments(b), LABEL.tolist(), strict=True):
        attended = oracle.attend(values, moment, KEPT, longest)
        seen = range(max(0, len(moment.behaviors) - (longest or 99)), len(moment.behaviors))
        score = np.array(oracle.scores(values, moment))[list(seen)]
        p = np.exp(score - score.max())
        p /= p.sum()
        tables = [values[f"repr.{name}.weight"] for name in ("item", "category", "recency")]
        gain = []
        for j in seen:
            item, category, _ = moment.behaviors[j]
            rows = item, category, oracle.bucket(len(moment.behaviors) - j)
            content = np.concatenate([table[row] for table, row in zip(tables, rows, strict=True)])
            step = 1e-6 * (content - attended.interest)
            ahead, behind = (log_likelihood(model, moment, attended, attended.interest + way * step, label) for way in (1, -1))
            gain.append((ahead - behind) / 2e-6)
        gained = p * np.exp(np.clip(gain, -most, most))
        losses.append(-np.log(gained.sum()))
        own = np.array([moment.behaviors[j][2] == moment.target[2] for j in seen])
        of_bonus += ((p - gained / gained.sum()) * own).sum()
    ranked, _ = model.ranked(model.views([b]))
    loss = objective(ranked, LABEL)
    assert loss.item() == pytest.approx(0.5 * np.mean(losses), rel=1e-6)
    loss.backward()
    assert model.score.bonus.grad.item() == pytest.approx(0.5 * of_bonus / 6, rel=1e-6, abs=1e-12), "p less the posterior"


def test_scores_learn_and_the_teacher_does_not() -> None:
    model, objective = taught()
    b = batch(40, [40, 40])
    objective(model.ranked(model.views([b]))[0], LABEL).backward()
    assert (model.attn.item.weight.grad[b.item_L].abs().sum(dim=1) > 0).sum() == 40, "what was not kept as well"
    teacher = [*model.repr.parameters(), *model.head.parameters()]
    assert all(value.grad is None or not value.grad.any() for value in teacher)


def test_what_no_target_sees_teaches_nothing() -> None:
    model, objective = taught()
    b, other = batch(40, [12, 12]), batch(40, [12, 12], seed=3)
    later = torch.arange(40) >= 12
    changed = replace(b, **{field: torch.where(later, getattr(other, field), getattr(b, field)) for field in ("item_L", "category_L")})
    first, second = (objective(model.ranked(model.views([one]))[0], LABEL).item() for one in (b, changed))
    assert first == pytest.approx(second, abs=1e-12)


def test_users_of_a_step_are_taught_as_each_alone() -> None:
    model, objective = taught()
    batches = [batch(30, [30]), batch(21, [21], seed=5)]
    together = objective(model.ranked(model.views(batches))[0], LABEL).item()
    alone = [objective(model.ranked(model.views([one]))[0], part).item() for one, part in zip(batches, LABEL.split(3), strict=True)]
    assert together == pytest.approx(np.mean(alone), abs=1e-12)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_hardly_any_history_gives_finite_gradients(length: int) -> None:
    model, _ = taught()
    model.train().loss([batch(length, [0, length])], LABEL).backward()
    assert all(bool(value.grad.isfinite().all()) for value in model.parameters() if value.grad is not None)


def test_what_it_cannot_judge_is_refused() -> None:
    with pytest.raises(
        ValueError, match="needs search 'exact' or 'everything', no encoder and pooling 'target_attention', got 'exact', None"
    ):
        taught(replace(SMALL, pooling=StageSpec("mean")))
    for name in ("weight", "most"):
        with pytest.raises(ValueError, match=rf"{name} must be above 0, got 0\.0"):
            configured("objective", StageSpec("posterior_over_all", {name: 0.0}))
