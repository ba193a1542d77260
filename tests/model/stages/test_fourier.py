"""The filter equals that of torch's own transform, its initial state is the identity, and padding mixes into nothing."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.config import ModelConfig, StageSpec
from model.stages.encoder.fourier import Fourier
from model.stages.pooling_content import kept_content
from model.stages.protocols import Kept
from tests.model.small_models import batch, made

WIDTH = 6


def kept_of(valid: Tensor) -> Kept:
    index = torch.zeros_like(valid, dtype=torch.int64)
    return Kept(index, index, torch.zeros(valid.shape).double(), valid)


def random_filter(segments: int, slots: int) -> Fourier:
    torch.manual_seed(slots)
    encoder = Fourier(WIDTH, segments, slots, 4).double()
    with torch.no_grad():
        for value in encoder.parameters():
            value.normal_()
    return encoder


@pytest.mark.parametrize("slots", [1, 2, 5, 8, 20, 21])
@pytest.mark.parametrize("segments", [1, 3])
def test_it_starts_as_the_identity(slots: int, segments: int) -> None:
    encoder = Fourier(WIDTH, segments, slots, 4).double()
    content = torch.randn(4, segments * slots, WIDTH).double()
    found = encoder(content, content[:, 0], kept_of(torch.ones(4, segments * slots, dtype=torch.bool)))
    torch.testing.assert_close(found, content, rtol=0, atol=1e-13)


@pytest.mark.parametrize("slots", [1, 2, 5, 8, 20, 21])
def test_it_is_a_filter_in_the_frequency_domain_then_a_feed_forward_network(slots: int) -> None:
    encoder = random_filter(3, slots)
    content = torch.randn(4, 3 * slots, WIDTH).double()
    found = encoder(content, content[:, 0], kept_of(torch.ones(4, 3 * slots, dtype=torch.bool)))
    first, last = cast(Any, encoder.feed_forward)[0], cast(Any, encoder.feed_forward)[2]
    for segment in range(3):
        part = slice(segment * slots, (segment + 1) * slots)
        weight = torch.complex(encoder.filter[0, segment], encoder.filter[1, segment])
        mixed = torch.fft.irfft(torch.fft.rfft(content[:, part], dim=1) * weight, n=slots, dim=1)
        expected = mixed + functional.gelu(mixed @ first.weight.T + first.bias) @ last.weight.T + last.bias
        torch.testing.assert_close(found[:, part], expected, rtol=0, atol=1e-11)


def test_a_history_shorter_than_k_is_one_with_empty_slots() -> None:
    encoder, content = random_filter(3, 8), torch.randn(2, 3, 8, WIDTH).double()
    valid = torch.zeros(2, 3, 8, dtype=torch.bool)
    valid[:, :, :5] = True
    content = content * valid[..., None]
    long = encoder(content.flatten(1, 2), content[:, 0, 0], kept_of(valid.flatten(1)))
    short = encoder(content[:, :, :5].flatten(1, 2), content[:, 0, 0], kept_of(valid[:, :, :5].flatten(1)))
    torch.testing.assert_close(long.view(2, 3, 8, WIDTH)[:, :, :5].flatten(1, 2), short, rtol=0, atol=1e-12)
    assert (long.view(2, 3, 8, WIDTH)[:, :, 5:] == 0).all()


@pytest.mark.parametrize("slots", [9, 10])
def test_slots_that_do_not_fall_into_the_segments_are_refused(slots: int) -> None:
    encoder, content = random_filter(2, 4), torch.zeros(1, slots, WIDTH).double()
    with pytest.raises(ValueError, match=f"{slots} kept slots do not fall into 2 segments of 4"):
        encoder(content, content[:, 0], kept_of(torch.ones(1, slots, dtype=torch.bool)))


def test_without_an_encoder_the_segments_are_attended_apart() -> None:
    search, pooling = StageSpec("three_queries", {"newest": 3}), StageSpec("segment_attention", {"heads": 2, "head_width": 3})
    model = made(
        ModelConfig(attn_width=6, repr_width=6, kept=8, tables="shared", search=search, pooling=pooling, hidden=(9, 4), features=False)
    )
    b = batch(40, [0, 3, 40])
    view = model.views([b])[0]
    kept, interest = model.interest(view)
    assert interest.shape == (9, 3 * 18) and (interest[:3] == 0).all()
    content = kept_content(kept, view.content)
    for segment, attention in enumerate(cast(Any, model.pooling).attention):
        part = slice(8 * segment, 8 * segment + 8)
        own = Kept(kept.index_MK[:, part], kept.recency_MK[:, part], kept.score_MK[:, part], kept.valid_MK[:, part])
        encoded = type(view.content)(view.content.rows, view.content.recency_PD, view.content.target_MR, content[:, part])
        expected = attention(view.content.target_MR, own, encoded)
        torch.testing.assert_close(interest[:, 18 * segment : 18 * segment + 18], expected, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="8 kept slots do not fall into 3 segments"):
        model.pooling(b, own, view.content)
