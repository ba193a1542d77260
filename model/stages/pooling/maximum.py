"""The largest value of each coordinate over the kept behaviors (TransAct's summary of an encoded sequence)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.pooling_content import kept_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register


class Maximum(nn.Module):
    """h_r = max over the valid kept of e_kr; zeros where nothing is kept."""

    parts = 1

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        content_MKR = kept_content(kept, content)
        largest_MR = content_MKR.masked_fill(~kept.valid_MK[:, :, None], float("-inf")).amax(dim=1)
        return largest_MR.masked_fill(~kept.valid_MK.any(dim=1, keepdim=True), 0.0)


@register("pooling", "max", "TransAct (arXiv 2306.00248)")
@dataclass(frozen=True, slots=True)
class MaximumConfig:
    """Nothing to choose."""

    def build(self, parts: Parts) -> Maximum:
        """The stage."""
        return Maximum()
