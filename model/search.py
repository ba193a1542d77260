"""Stage 1, search (GSU): which K of a user's behaviors matter for a target, in attention space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.recency import MAX_LENGTH, bucket_of_recency
from model.tables import Rows, Tables

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

    def __call__(self, batch: UserBatch, rows: Rows | None = None) -> Kept: ...


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

    def content_scores(self, rows: Rows) -> Tensor:
        """<a(t), a(j)> / sqrt(2 d) of every target with every behavior, hidden ones included: [M, L]."""
        return (rows.target_MD / math.sqrt(2 * self.tables.width)) @ rows.behavior_LD.T

    def visible_bias(self, batch: UserBatch, bias_P: Tensor) -> Tensor:
        """Recency bias of every behavior for every target, -inf where the target must not see it: [T, L]."""
        length = len(batch.item_L)
        by_place = bias_P.new_full(
            (2 * length,), NEG_INF
        )  # place x holds recency L - x: target t reads a window that starts at L - length_T
        seen = min(length, self.longest)
        by_place[length - seen : length] = bias_P[self.bucket[torch.arange(seen, 0, -1)]]
        return by_place.unfold(0, length, 1)[length - batch.length_T]

    def at(self, batch: UserBatch, content_ML: Tensor, index_MK: Tensor) -> Kept:
        """The behaviors `index_MK` with their differentiable scores and recency buckets."""
        candidates = batch.target_item_TC.shape[1]
        recency_MK = batch.length_T.repeat_interleave(candidates)[:, None] - index_MK
        valid_MK = (recency_MK >= 1) & (recency_MK <= self.longest)
        bucket_MK = self.bucket[recency_MK.clamp(0, MAX_LENGTH)]
        score_MK = content_ML.gather(1, index_MK) + self.recency_bias()[bucket_MK]
        if self.bonus is not None:
            score_MK = score_MK + self.bonus * (batch.item_key_L[index_MK] == batch.target_key_TC.reshape(-1, 1))
        return Kept(index_MK, bucket_MK, score_MK.masked_fill(~valid_MK, NEG_INF), valid_MK)

    def forward(self, batch: UserBatch, rows: Rows | None = None) -> Kept:
        num_targets, num_candidates = batch.target_item_TC.shape
        length = len(batch.item_L)
        content_ML = self.content_scores(rows or self.tables.rows([batch])[0])
        with torch.no_grad():
            bias_TL = self.visible_bias(batch, self.recency_bias())
            total_ML = (content_ML.view(num_targets, num_candidates, length) + bias_TL[:, None]).flatten(0, 1)
            if self.bonus is not None:
                total_ML += self.bonus * (batch.target_key_TC.reshape(-1, 1) == batch.item_key_L)
            index_MK = _best(total_ML, min(self.kept, length))
        return self.at(batch, content_ML, index_MK)


class NoSearch:
    """Every visible behavior is kept, with the scores of `search`: attention over all L, what the auxiliary loss trains on."""

    def __init__(self, search: ExactSearch) -> None:
        self._search = search

    def __call__(self, batch: UserBatch, rows: Rows | None = None) -> Kept:
        content_ML = self._search.content_scores(rows or self._search.tables.rows([batch])[0])
        return self._search.at(batch, content_ML, torch.arange(content_ML.shape[1]).expand_as(content_ML))


def _best(score_ML: Tensor, k: int) -> Tensor:
    """Indices of the k highest of each row, in no order: int64 [M, k]; NumPy's selection takes a quarter of torch's time."""
    length = score_ML.shape[1]
    if k == length:
        return torch.arange(length).expand_as(score_ML)
    index = np.argpartition(score_ML.numpy(), length - k, axis=1)[:, length - k :]
    return torch.from_numpy(np.ascontiguousarray(index))
