"""Target attention over the kept behaviors (DARE, equations 3 and 4): weights from attention space, content from representation space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.stages.pooling_content import weighted_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Capabilities, Parts, register


def attention_weight(kept: Kept) -> Tensor:
    """Softmax of the scores over the valid kept (equation 3): [M, K]; a row with nothing kept is all zeros, never NaN."""
    any_valid = kept.valid_MK.any(dim=1, keepdim=True)
    return torch.softmax(kept.score_MK.masked_fill(~any_valid, 0.0), dim=1) * any_valid


def attention_mass(kept: Kept) -> Tensor:
    """log(1 + sum_k exp(score_k)) over the kept: [M], 0 where nothing is kept. Ten purchases weigh more than one here."""
    any_valid = kept.valid_MK.any(dim=1)
    return functional.softplus(torch.logsumexp(kept.score_MK.masked_fill(~any_valid[:, None], 0.0), dim=1).clamp_min(-80.0)) * any_valid


class TargetAttention(nn.Module):
    """h = sum_k w_k [item ; category ; recency](k) (equation 4)."""

    parts = 1

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        return weighted_content(attention_weight(kept), kept, content)


@register("pooling", "target_attention", "DARE (arXiv 2410.02604)", Capabilities(fused=True))
@dataclass(frozen=True, slots=True)
class TargetAttentionConfig:
    """The search's own scores, softmaxed."""

    def build(self, parts: Parts) -> TargetAttention:
        """The stage."""
        return TargetAttention()
