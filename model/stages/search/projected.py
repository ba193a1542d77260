"""Soft search by a learned product (SIM): (W_a a(t)) . (W_b a(j)), top K."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import NEG_INF, DareScore
from model.stages.selection import newest_best
from model.tables import Rows

_GRID = float(1 << 20)
_BOUND = float((1 << 36) - 1)


class ProjectedSearch(nn.Module):
    """score_j = (W_a a(t)) . (W_b a(j)) [+ bonus where item_j is the target], without recency; K highest, newest first among equals.

    To the selection, scores are equal within 2^-20: repeats of an item tie, and rounding must not decide which of them is kept.
    Args: `score` whose bonus and visibility hold; `width` of a(x); `kept` K.
    """

    def __init__(self, score: DareScore, width: int, kept: int) -> None:
        super().__init__()
        self.score, self.kept = score, kept
        self.target, self.behavior = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        nn.init.eye_(self.target.weight)
        nn.init.eye_(self.behavior.weight)

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        with torch.no_grad():
            target_MD, behavior_LD = self._mapped(attn, torch.float64)
            exact_ML = target_MD @ behavior_LD.T
            if (bonus_ML := self.score.bonuses(batch)) is not None:
                exact_ML += bonus_ML.double()
            level_ML = torch.round(exact_ML * _GRID).clamp(-_BOUND, _BOUND)
            index_MK = newest_best(level_ML, batch, self.score.visible(batch), self.kept)
        target_MD, behavior_LD = self._mapped(attn, attn.target_MD.dtype)
        return self._with(batch, index_MK, torch.einsum("md,mkd->mk", target_MD, behavior_LD[index_MK]), whole=False)

    def over_all(self, batch: UserBatch, attn: Rows) -> Kept:
        """Every visible behavior with its score: what the search's own loss reads."""
        target_MD, behavior_LD = self._mapped(attn, attn.target_MD.dtype)
        score_ML = target_MD @ behavior_LD.T
        return self._with(batch, torch.arange(score_ML.shape[1]).expand_as(score_ML), score_ML, whole=True)

    def _mapped(self, attn: Rows, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return attn.target_MD.to(dtype) @ self.target.weight.to(dtype).T, attn.behavior_LD.to(dtype) @ self.behavior.weight.to(dtype).T

    def _with(self, batch: UserBatch, index_MK: Tensor, score_MK: Tensor, whole: bool) -> Kept:
        bucket_MK, valid_MK = self.score.seen(batch, index_MK)
        if (bonus_MK := self.score.bonuses(batch, index_MK)) is not None:
            score_MK = score_MK + bonus_MK
        return Kept(index_MK, bucket_MK, score_MK.masked_fill(~valid_MK, NEG_INF), valid_MK, whole)


@register("search", "projected", "SIM (arXiv 2006.05639), soft search")
@dataclass(frozen=True, slots=True)
class ProjectedConfig:
    """Top K of a product of two learned maps, which start as the identity."""

    def build(self, parts: Parts) -> ProjectedSearch:
        """The stage."""
        return ProjectedSearch(parts.score, 2 * parts.attn.width, parts.config.kept)
