"""Mean pooling: every kept behavior counts the same, whatever the target."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.pooling_content import weighted_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register


class Mean(nn.Module):
    """h = (1 / n) sum over the n kept of [item ; category ; recency]; zero where nothing is kept."""

    parts = 1

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        weight_MK = kept.valid_MK.to(content.target_MR.dtype)
        return weighted_content(weight_MK / weight_MK.sum(dim=1, keepdim=True).clamp_min(1.0), kept, content)


@register("pooling", "mean", "the usual baseline without attention")
@dataclass(frozen=True, slots=True)
class MeanConfig:
    """The average of the kept."""

    def build(self, parts: Parts) -> Mean:
        """The stage."""
        return Mean()
