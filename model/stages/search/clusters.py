"""Search over clusters of the history instead of behaviors (TWIN V2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.stages.hashing import Hyperplanes
from model.stages.options import integer
from model.stages.protocols import Kept
from model.stages.registry import Parts, register
from model.stages.scores import NEG_INF, DareScore
from model.stages.selection import best
from model.tables import Rows


class ClusterSearch(nn.Module):
    """The behaviors of the K clusters with the highest s_g + log n_g, each with its cluster's score s_g.

    A cluster holds the visible behaviors that share a hash; n_g is their number and s_g the score of their mean vectors, which is the mean
    of their scores. Softmax over the behaviors then gives each cluster n_g exp(s_g) and each member an equal part of it: the weight of
    TWIN V2, on the mean of the members. Args: `score`; `hashes` whose b bits make 2^b clusters; `kept` K.
    """

    def __init__(self, score: DareScore, hashes: Hyperplanes, kept: int) -> None:
        super().__init__()
        self.score, self.hashes = score, hashes
        bits = hashes.planes.shape[1]
        self.clusters = 2**bits
        self.kept = min(kept, self.clusters)
        self.place: Tensor
        self.register_buffer("place", 2 ** torch.arange(bits), persistent=False)

    def forward(self, batch: UserBatch, attn: Rows) -> Kept:
        candidates = batch.target_item_TC.shape[1]
        visible_TL = self.score.visible(batch)
        visible_ML = visible_TL.repeat_interleave(candidates, dim=0)
        cluster_L = (self.hashes(attn.behavior_LD) * self.place).sum(dim=1)
        member_LG = functional.one_hot(cluster_L, self.clusters).to(attn.behavior_LD.dtype)
        size_MG = (visible_TL.to(member_LG.dtype) @ member_LG).repeat_interleave(candidates, dim=0)
        mean_MG = self._scores(batch, attn, visible_ML) @ member_LG / size_MG.clamp_min(1)
        chosen_MG = best((mean_MG + size_MG.log()).detach(), self.kept)
        open_MG = torch.zeros_like(mean_MG, dtype=torch.bool).scatter(1, chosen_MG, True)
        valid_ML = visible_ML & open_MG[:, cluster_L]
        score_ML = mean_MG[:, cluster_L].masked_fill(~valid_ML, NEG_INF)
        index_ML = torch.arange(score_ML.shape[1]).expand_as(score_ML)
        recency_ML = self.score.buckets(batch).repeat_interleave(candidates, dim=0)
        return Kept(index_ML, recency_ML, score_ML, valid_ML, whole=True)

    def _scores(self, batch: UserBatch, attn: Rows, visible_ML: Tensor) -> Tensor:
        """Score of every behavior, 0 where the target must not see it: [M, L]."""
        bias_TL = self.score.visible_bias(batch)
        score_ML = self.score.content(attn) + bias_TL.repeat_interleave(batch.target_item_TC.shape[1], dim=0)
        if (bonus_ML := self.score.bonuses(batch)) is not None:
            score_ML = score_ML + bonus_ML
        return score_ML.masked_fill(~visible_ML, 0.0)


@register("search", "clusters", "TWIN V2 (arXiv 2407.16357)")
@dataclass(frozen=True, slots=True)
class ClustersConfig:
    """`bits` of the hash of a behavior's [item ; category]: 2^bits clusters; `seed` of its hyperplanes."""

    bits: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        integer("bits", self.bits, 1, 12)
        integer("seed", self.seed, 0, 2**31)

    def build(self, parts: Parts) -> ClusterSearch:
        """The stage."""
        return ClusterSearch(parts.score, Hyperplanes(2 * parts.attn.width, self.bits, self.seed), parts.config.kept)
