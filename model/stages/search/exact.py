"""Exact soft search: plain top-K of the score over the whole history (DARE and TWIN, equation 2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.batch import UserBatch
from model.stages.protocols import Kept
from model.stages.registry import Capabilities, Parts, register
from model.stages.scores import DareScore
from model.stages.selection import best
from model.tables import Rows


class ExactSearch(nn.Module):
    """The K behaviors with the highest score; gradient reaches the kept scores only. Args: `score`; `kept` K."""

    def __init__(self, score: DareScore, kept: int) -> None:
        super().__init__()
        self.score, self.kept = score, kept

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        num_targets, num_candidates = batch.target_item_TC.shape
        length = batch.item_L.shape[0]
        content_ML = self.score.content(attn)
        with torch.no_grad():
            bias_TL = self.score.visible_bias(batch)
            total_ML = (content_ML.view(num_targets, num_candidates, length) + bias_TL[:, None]).flatten(0, 1)
            if (bonus_ML := self.score.bonuses(batch)) is not None:
                total_ML += bonus_ML
            index_MK = best(total_ML, self.kept)
        return self.score.at(batch, content_ML, index_MK)


@register("search", "exact", "DARE (arXiv 2410.02604), TWIN (arXiv 2302.02352)", Capabilities(fused=True))
@dataclass(frozen=True, slots=True)
class ExactConfig:
    """Top K of the score, over everything."""

    def build(self, parts: Parts) -> ExactSearch:
        """The stage."""
        return ExactSearch(parts.score, parts.config.kept)
