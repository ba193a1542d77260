"""DIN's learned weights equal its network written out in loops; the folded network is the same function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from model.batch import UserBatch
from model.config import ModelConfig, StageSpec
from model.recency import bucket_of_recency
from model.two_stage import TwoStageModel
from tests.model.small_models import batch, made
from tests.model.test_two_stage import KEPT, SMALL

TOLERANCE = 1e-11


def config(**options: object) -> ModelConfig:
    return replace(SMALL, attn_width=6, tables="shared", search=StageSpec("everything"), pooling=StageSpec("din", options))


def contents(model: TwoStageModel, b: UserBatch, length: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """e_j of the first `length` behaviors for a target that sees these: [length, R]."""
    item, category, recency = (getattr(model.repr, name).weight.detach().numpy() for name in ("item", "category", "recency"))
    rows = [np.concatenate([item[b.item_L[j]], category[b.category_L[j]], recency[bucket_of_recency()[length - j]]]) for j in range(length)]
    return np.array(rows).reshape(length, 3 * item.shape[1])


def expected(model: TwoStageModel, b: UserBatch, options: dict[str, object]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    network = {name: value.detach().numpy() for name, value in cast(nn.Module, model.pooling).named_parameters()}
    target_MR = model.views([b])[0].content.target_MR.detach().numpy()
    found = []
    for m, q in enumerate(target_MR):
        length = int(b.length_T[m // b.target_item_TC.shape[1]])
        e = contents(model, b, length)
        logit = []
        for row in e:
            x = network["first.weight"] @ np.concatenate([q, row, q - row, q * row]) + network["first.bias"]
            x = np.array([value if value > 0 else network["slope"] * value for value in x])
            logit.append(float(network["last.weight"][0] @ x + network["last.bias"][0]))
        weight = np.array(logit)
        if options.get("search") and length > KEPT:
            weight[np.argsort(-weight)[KEPT:]] = -np.inf if options.get("softmax") else 0.0
        if options.get("softmax") and length:
            weight = np.exp(weight - weight.max()) / np.exp(weight - weight.max()).sum()
        found.append(weight @ e)
    return found


@pytest.mark.parametrize("options", [{}, {"softmax": True}, {"search": True}, {"search": True, "softmax": True}], ids=str)
@pytest.mark.parametrize("length", [0, 1, KEPT, 63])
def test_interest_equals_the_loops(options: dict[str, object], length: int) -> None:
    model = made(config(**options))
    b = batch(length, sorted({0, length // 2, length}))
    with torch.no_grad():
        _, interest = model.interest(model.views([b])[0])
    np.testing.assert_allclose(interest.numpy(), np.array(expected(model, b, options)), atol=TOLERANCE)


def test_a_network_of_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        made(config(hidden=0))
