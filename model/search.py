"""Stage 1, search (GSU): which K of a user's behaviors matter for a target, in attention space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.recency import MAX_LENGTH, bucket_of_recency
from model.tables import Tables

NEG_INF = float("-inf")


@dataclass(frozen=True, slots=True)
class Kept:
    """What search kept for each of M = T * C targets.

    `index_MK` int64 positions in the user's sequence (any value where not valid), `recency_MK` int64 recency buckets, `score_MK`
    differentiable scores, -inf where `valid_MK` is False (fewer than K behaviors).
    """

    index_MK: Tensor
    recency_MK: Tensor
    score_MK: Tensor
    valid_MK: Tensor


class Search(Protocol):
    """Keeps at most K behaviors for each target."""

    def __call__(self, batch: UserBatch) -> Kept: ...


class ExactSearch(nn.Module):
    """Plain top-K of the DARE score over the whole history; gradient reaches the kept scores only.

    score_j = <a(t), a(j)> / sqrt(2 d) + <time(0), time(p_j)> / sqrt(d) [+ bonus where item_j is the target], equations 1 and 2.

    Args: `tables` the attention tables; `kept` K; `longest` use only the newest that many behaviors; `same_item_bonus` learn the bonus.
    """

    def __init__(self, tables: Tables, kept: int, longest: int | None, same_item_bonus: bool) -> None:
        super().__init__()
        self.tables = tables
        self.kept = kept
        self.longest = min(longest or MAX_LENGTH, MAX_LENGTH)
        self.bonus = nn.Parameter(torch.zeros(())) if same_item_bonus else None
        self.bucket: Tensor
        self.register_buffer("bucket", torch.from_numpy(bucket_of_recency().astype("int64")), persistent=False)

    def recency_bias(self) -> Tensor:
        """b[p] = <time(0), time(p)> / sqrt(d): one constant per recency bucket, [P]."""
        recency: Tensor = self.tables.recency.weight
        return recency @ recency[0] / math.sqrt(self.tables.width)

    def scores(self, batch: UserBatch) -> tuple[Tensor, Tensor]:
        """Content scores [M, L] (differentiable, without recency) and the recency bucket of every behavior [T, L], -1 where hidden."""
        query_MA = self.tables.content(batch.target_item_TC, batch.target_category_TC).flatten(0, 1)
        key_LA = self.tables.content(batch.item_L, batch.category_L)
        score_ML = (query_MA / math.sqrt(2 * self.tables.width)) @ key_LA.T
        if self.bonus is not None:
            same_ML = batch.target_key_TC.reshape(-1, 1) == batch.item_key_L
            score_ML = score_ML + self.bonus * same_ML
        recency_TL = batch.recency_TL()
        visible_TL = (recency_TL >= 1) & (recency_TL <= self.longest)
        return score_ML, self.bucket[recency_TL.clamp(0, MAX_LENGTH)].masked_fill(~visible_TL, -1)

    def forward(self, batch: UserBatch) -> Kept:
        num_targets, num_candidates = batch.target_item_TC.shape
        length = len(batch.item_L)
        score_ML, bucket_TL = self.scores(batch)
        bias_P = self.recency_bias()
        with torch.no_grad():
            bias_TL = bias_P[bucket_TL.clamp(0)].masked_fill(bucket_TL < 0, NEG_INF)
            total_TCL = score_ML.view(num_targets, num_candidates, length) + bias_TL[:, None]
            top = total_TCL.flatten(0, 1).topk(min(self.kept, length), dim=1)
            valid_MK = top.values > NEG_INF
        target_M1 = torch.arange(num_targets).repeat_interleave(num_candidates)[:, None]
        bucket_MK = bucket_TL[target_M1, top.indices].clamp(0)
        kept_score = score_ML.gather(1, top.indices) + bias_P[bucket_MK]
        return Kept(top.indices, bucket_MK, kept_score.masked_fill(~valid_MK, NEG_INF), valid_MK)


class NoSearch:
    """Every visible behavior is kept, with the scores of `search`: attention over all L, what the auxiliary loss trains on."""

    def __init__(self, search: ExactSearch) -> None:
        self._search = search

    def __call__(self, batch: UserBatch) -> Kept:
        score_ML, bucket_TL = self._search.scores(batch)
        bucket_ML = bucket_TL.repeat_interleave(batch.target_item_TC.shape[1], dim=0)
        valid_ML = bucket_ML >= 0
        index_ML = torch.arange(len(batch.item_L)).expand_as(bucket_ML)
        score_ML = score_ML + self._search.recency_bias()[bucket_ML.clamp(0)]
        return Kept(index_ML, bucket_ML.clamp(0), score_ML.masked_fill(~valid_ML, NEG_INF), valid_ML)
