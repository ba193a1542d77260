"""The gradient of a shared table, taken apart into what attention and what content ask of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.config import ModelConfig, TrainConfig, default_preset
from model.data.protocol import ProtocolConfig
from model.dataset import Dataset, prepare
from model.gradient_conflict import FIELDS, gradient_conflict, split_gradient
from model.tables import Rows
from model.train import build
from tests.model.small_log import random_log

SHARED = ModelConfig(attn_width=4, repr_width=4, kept=5, hidden=(8, 4), init_std=0.3, tables="shared", features=False)
CONFIG = replace(default_preset(0), model=SHARED, protocol=ProtocolConfig(first_target=10), taste_width=4, rows_per_step=128, epochs=1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return prepare(random_log(4), CONFIG)


def test_the_parts_are_what_remains_when_the_other_is_held_still(data: Dataset) -> None:
    model = build(CONFIG, data)
    chunks = data.train.chunks(16, None)[:4]
    batches = [data.train.batch(data.log, data.vocabulary, rows) for rows in chunks]
    label = torch.from_numpy(np.concatenate([data.train.labels(rows) for rows in chunks]))

    def gradient(attention: bool, content: bool) -> dict[str, torch.Tensor]:
        model.zero_grad()

        def rows_of(moving: bool) -> list[Rows]:
            rows = model.attn.rows(batches)
            return rows if moving else [Rows(one.behavior_LD.detach(), one.target_MD.detach()) for one in rows]

        views = [model.view(*parts) for parts in zip(batches, rows_of(attention), rows_of(content), strict=True)]
        functional.binary_cross_entropy_with_logits(model.logits(views), label).backward()
        return {name: getattr(model.attn, name).weight.grad.clone() for name in FIELDS}

    through_attention, through_content, whole = gradient(True, False), gradient(False, True), gradient(True, True)
    model.zero_grad()
    for name, (attention, content) in split_gradient(model, batches, label).items():
        assert attention.abs().max() > 0
        assert content.abs().max() > 0
        torch.testing.assert_close(attention, through_attention[name])
        torch.testing.assert_close(content, through_content[name])
        torch.testing.assert_close(getattr(model.attn, name).weight.grad, whole[name])


def test_a_training_is_summed_up(data: Dataset) -> None:
    seen = []
    found = gradient_conflict(CONFIG, data, lambda done, of: seen.append((done, of)))
    assert seen[-1][0] == seen[-1][1] == len(seen) > 5
    for name in FIELDS:
        figures = found[name]
        assert figures["row_steps"] == sum(figures["histogram"]) == sum(part["row_steps"] for part in found[f"{name}_by_fifth"])
        assert 0 < figures["share_of_row_steps_below_0"] < 1
        assert figures["attention_over_content_of_row"] > 0
    below = sum(found["item"]["histogram"][:10]) / found["item"]["row_steps"]
    assert below == pytest.approx(found["item"]["share_of_row_steps_below_0"], abs=1e-3)


def test_tables_that_share_nothing_are_refused(data: Dataset) -> None:
    apart: TrainConfig = replace(CONFIG, model=replace(SHARED, tables="decoupled"))
    with pytest.raises(ValueError, match="gradients meet only in shared tables, this model's are 'decoupled'"):
        gradient_conflict(apart, data)
