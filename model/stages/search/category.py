"""Hard search: the newest behaviors of the target's category (SIM and TWIN's hard variants)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.batch import UserBatch
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import NEG_INF, DareScore
from model.stages.selection import newest_best
from model.tables import Rows


class CategorySearch(nn.Module):
    """The newest K behaviors whose category row is the target's, with their scores; a target without any keeps nothing.

    Args: `score`; `kept` K.
    """

    def __init__(self, score: DareScore, kept: int) -> None:
        super().__init__()
        self.score, self.kept = score, kept

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        category_M1 = batch.target_category_TC.reshape(-1, 1)
        level_ML = torch.where(batch.category_L == category_M1, 0.0, NEG_INF)
        index_MK = newest_best(level_ML, batch, self.score.visible(batch), self.kept)
        return self.score.of(batch, attn, index_MK, batch.category_L[index_MK] == category_M1)


@register("search", "category", "SIM (arXiv 2006.05639), hard search")
@dataclass(frozen=True, slots=True)
class CategoryConfig:
    """Same category, newest K. Items without a category share the unknown one, which is searched like any other."""

    def build(self, parts: Parts) -> CategorySearch:
        """The stage."""
        return CategorySearch(parts.score, parts.config.kept)
