"""The transformer equals torch's attention on the valid slots alone, and the maximum is that of the valid slots."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.config import StageSpec
from model.stages.pooling.maximum import Maximum
from model.stages.pooling_content import kept_content
from tests.model.small_models import batch, made
from tests.model.test_two_stage import SMALL

ENCODER = StageSpec("transformer", {"layers": 2, "heads": 3, "head_width": 4, "hidden": 7})
CONFIG = replace(SMALL, attn_width=6, tables="shared", encoder=ENCODER, pooling=StageSpec("max"))


def encoded(encoder: Any, content_KR: Tensor, target_R: Tensor) -> Any:
    """The equations for one target whose slots are all valid."""
    x = content_KR @ encoder.of_behavior.weight.T + encoder.of_behavior.bias + encoder.of_target.weight @ target_R
    for layer in encoder.layers:
        normed = functional.layer_norm(x, (18,), layer.attention_norm.weight, layer.attention_norm.bias)
        q, k, v = ((normed @ linear.weight.T).view(len(x), 3, 4).transpose(0, 1)[None] for linear in (layer.query, layer.key, layer.value))
        mixed = functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
        x = x + mixed @ layer.out.weight.T + layer.out.bias
        normed = functional.layer_norm(x, (18,), layer.forward_norm.weight, layer.forward_norm.bias)
        first, last = layer.feed_forward[0], layer.feed_forward[2]
        x = x + functional.relu(normed @ first.weight.T + first.bias) @ last.weight.T + last.bias
    return x


@pytest.mark.parametrize("search", ["nearest_and_newest", "exact"])
@pytest.mark.parametrize("length", [0, 1, 9, 63])
def test_it_is_a_transformer_over_the_valid_slots(search: str, length: int) -> None:
    model = made(replace(CONFIG, search=StageSpec(search)))
    b = batch(length, sorted({0, length // 2, length}))
    view = model.views([b])[0]
    with torch.no_grad():
        kept, interest = model.interest(view)
        content_MKR = kept_content(kept, view.content)
        found = cast(Any, model.encoder)(content_MKR, view.content.target_MR, kept)
        # Whatever lies in slots that are not valid reaches nothing.
        junk = torch.where(kept.valid_MK[:, :, None], content_MKR, 1e3 * torch.randn_like(content_MKR))
        assert torch.equal(cast(Any, model.encoder)(junk, view.content.target_MR, kept), found)
        for m, valid in enumerate(kept.valid_MK):
            expected = encoded(model.encoder, content_MKR[m][valid], view.content.target_MR[m])
            torch.testing.assert_close(found[m][valid], expected, rtol=0, atol=1e-10)
            assert (found[m][~valid] == 0).all()
            largest = expected.amax(dim=0) if valid.any() else torch.zeros_like(interest[m])
            torch.testing.assert_close(interest[m], largest, rtol=0, atol=1e-10)


def test_the_maximum_of_behaviors_without_an_encoder_is_that_of_their_rows() -> None:
    model = made(replace(CONFIG, encoder=None, search=StageSpec("exact")))
    b = batch(63, [3, 63])
    kept, interest = model.interest(model.views([b])[0])
    assert isinstance(model.pooling, Maximum)
    rows = kept_content(kept, model.views([b])[0].content)
    for m, valid in enumerate(kept.valid_MK):
        assert torch.equal(interest[m], rows[m][valid].amax(dim=0))


def test_a_user_without_behaviors_has_finite_gradients() -> None:
    model = made(replace(CONFIG, search=StageSpec("nearest_and_newest"))).train()
    loss = model.loss([batch(0, [0, 0])], torch.tensor([1.0, 0, 0, 1, 0, 0], dtype=torch.float64))
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        made(replace(CONFIG, encoder=StageSpec("transformer", {"layers": 0})))
