"""Folded attention gives the numbers of attention with keys and values written out, and the stack those of its equations."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

from model.config import StageSpec
from model.stages.cross_attention import FoldedAttention, masked_softmax
from model.stages.pooling_content import kept_content
from model.stages.protocols import Content, Kept
from tests.model.small_models import batch, made
from tests.model.test_two_stage import SMALL

STACKED = StageSpec("stacked_cross_attention", {"layers": 2, "heads": 3, "head_width": 4, "hidden": 7})
CONFIG = replace(SMALL, attn_width=6, tables="shared", pooling=STACKED)


def unfolded(attention: FoldedAttention, query: torch.Tensor, kept: Kept, content: Content) -> torch.Tensor:
    """Head by head and target by target, with keys and values of the valid behaviors in memory."""
    every = kept_content(kept, content)
    rows = []
    for m in range(len(query)):
        behaviors = every[m][kept.valid_MK[m]]
        heads = []
        for h in range(attention.heads):
            part = slice(h * attention.width, (h + 1) * attention.width)
            q = attention.query.weight[part] @ query[m]
            keys, values = behaviors @ attention.key.weight[part].T, behaviors @ attention.value.weight[part].T
            weight = torch.softmax(keys @ q / math.sqrt(attention.width), dim=0)
            heads.append(weight @ values)
        rows.append(attention.out.weight @ torch.cat(heads))
    return torch.stack(rows)


@pytest.mark.parametrize("search", ["everything", "exact"])
@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("length", [0, 1, 20, 63])
def test_folded_equals_unfolded(search: str, encoded: bool, length: int) -> None:
    model = made(replace(CONFIG, search=StageSpec(search)))
    b = batch(length, sorted({0, length // 2, length}))
    view = model.views([b])[0]
    kept = model.search(b, view.attn)
    content = replace(view.content, encoded_MKR=kept_content(kept, view.content).sin() if encoded else None)
    attention = cast(Any, model.pooling).attention[0]
    found = attention(content.target_MR, kept, content)
    torch.testing.assert_close(found, unfolded(attention, content.target_MR, kept, content), rtol=0, atol=1e-11)


@pytest.mark.parametrize("length", [0, 63])
def test_the_stack_is_attention_and_feed_forward_by_turns(length: int) -> None:
    model = made(replace(CONFIG, search=StageSpec("everything")))
    b = batch(length, sorted({0, length}))
    view = model.views([b])[0]
    kept, found = model.interest(view)
    stack, x = cast(Any, model.pooling), view.content.target_MR
    for i in range(2):
        first, last = stack.feed_forward[i][0], stack.feed_forward[i][2]
        normed = functional.layer_norm(x, (18,), stack.query_norm[i].weight, stack.query_norm[i].bias)
        x = x + unfolded(stack.attention[i], normed, kept, view.content)
        normed = functional.layer_norm(x, (18,), stack.forward_norm[i].weight, stack.forward_norm[i].bias)
        x = x + functional.gelu(normed @ first.weight.T + first.bias) @ last.weight.T + last.bias
    seen = b.length_T.repeat_interleave(3) > 0
    torch.testing.assert_close(found[seen], x[seen], rtol=0, atol=1e-10)
    assert (found[~seen] == 0).all()


def test_nothing_valid_gives_zeros_with_finite_gradients() -> None:
    score = torch.randn(2, 3, requires_grad=True)
    weight = masked_softmax(score, torch.tensor([[False, False, False], [True, False, True]]))
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    assert weight[0].tolist() == [0, 0, 0] and weight[1, 1] == 0 and float(weight.detach()[1].sum()) == pytest.approx(1)
    assert score.grad is not None and torch.isfinite(score.grad).all()


def test_a_stack_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        made(replace(CONFIG, pooling=StageSpec("stacked_cross_attention", {"layers": 0})))
