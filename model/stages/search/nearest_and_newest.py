"""The newest behaviors, and of the older ones those nearest to the target by content alone (TransAct V2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from model.batch import UserBatch
from model.stages.options import at_least_one
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import NEG_INF, DareScore
from model.stages.selection import best
from model.tables import Rows

_NEWER = 2.0**-44
"""What one place of recency weighs in the search, so that among equals the newer is kept: less than any difference that matters."""


class NearestAndNewest(nn.Module):
    """The `newest` S behaviors, then the `kept` K of the others with the highest <a(t), a(j)>: K + S slots.

    Equal contents are common (an item taken again) and their products differ in the last bits of float32, so the search is in float64.
    """

    def __init__(self, score: DareScore, kept: int, newest: int) -> None:
        super().__init__()
        self.score, self.kept, self.newest = score, kept, newest

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        candidates = batch.target_item_TC.shape[1]
        with torch.no_grad():
            recency_TL = batch.recency_TL()
            older_TL = self.score.visible(batch) & (recency_TL > self.newest)
            newer_TL = (_NEWER * recency_TL).masked_fill(~older_TL, float("inf"))
            near_ML = self.score.content(Rows(attn.behavior_LD.double(), attn.target_MD.double()))
            near_ML = near_ML - newer_TL.repeat_interleave(candidates, dim=0)
            nearest_MK = best(near_ML, self.kept)
            newest_TS = batch.length_T[:, None] - torch.arange(1, self.newest + 1)
            newest_MS = newest_TS.repeat_interleave(candidates, dim=0)
            real_MK = torch.cat([near_ML.gather(1, nearest_MK) > NEG_INF, newest_MS >= 0], dim=1)
            index_MK = torch.cat([nearest_MK, newest_MS.clamp_min(0)], dim=1)
        return self.score.of(batch, attn, index_MK, real_MK)


@register("search", "nearest_and_newest", "TransAct V2 (arXiv 2506.02267)")
@dataclass(frozen=True, slots=True)
class NearestAndNewestConfig:
    """`newest` behaviors beside the K nearest."""

    newest: int = 10

    def __post_init__(self) -> None:
        at_least_one(self, "newest")

    def build(self, parts: Parts) -> NearestAndNewest:
        """The stage."""
        return NearestAndNewest(parts.score, parts.config.kept, self.newest)
