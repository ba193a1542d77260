"""The score of a behavior for a target in attention space (equation 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.recency import MAX_LENGTH, NUM_AGES, bucket_of_hours, bucket_of_recency
from model.stages.protocols import Kept
from model.tables import Rows, Space

NEG_INF = float("-inf")


class DareScore(nn.Module):
    """score_j = <a(t), a(j)> / sqrt(2 d) + <time(0), time(p_j)> / sqrt(d) [+ bonus where item_j is the target].

    Args: `space` attention space; `longest` use only the newest that many behaviors; `same_item_bonus` learn the bonus; `ages` a behavior's
    time is its recency and its age: buckets are of pairs, recency * NUM_AGES + age.
    """

    def __init__(self, space: Space, longest: int | None, same_item_bonus: bool, ages: bool = False) -> None:
        super().__init__()
        # The model owns the space's parameters; a second registration here would name them twice.
        self._space = (space,)
        self.longest = min(longest or MAX_LENGTH, MAX_LENGTH)
        self.bonus = nn.Parameter(torch.zeros(())) if same_item_bonus else None
        self.ages = ages
        self.age: Tensor
        self.register_buffer("age", torch.from_numpy(bucket_of_hours().astype("int64")), persistent=False)
        self.bucket: Tensor
        self.register_buffer("bucket", torch.from_numpy(bucket_of_recency().astype("int64")), persistent=False)

    @property
    def space(self) -> Space:
        """Attention space."""
        return self._space[0]

    def recency_bias(self) -> Tensor:
        """b[p] = <time(0), time(p)> / sqrt(d): one constant per recency bucket, [P]."""
        return self.space.recency_PD() @ self.space.target_time_D() / math.sqrt(self.space.width)

    def content(self, rows: Rows) -> Tensor:
        """<a(t), a(j)> / sqrt(2 d) of every target with every behavior, hidden ones included: [M, L]."""
        return (rows.target_MD / math.sqrt(2 * self.space.width)) @ rows.behavior_LD.T

    def visible(self, batch: UserBatch) -> Tensor:
        """Whether target t may see behavior j: bool [T, L]."""
        recency_TL = batch.recency_TL()
        return (recency_TL >= 1) & (recency_TL <= self.longest)

    def visible_bias(self, batch: UserBatch) -> Tensor:
        """Recency bias of every behavior for every target, -inf where the target must not see it: [T, L]."""
        bias_P = self.recency_bias()
        if self.ages or torch.compiler.is_exporting():
            bias_TL = bias_P[self.buckets(batch)]
            return bias_TL.masked_fill(~self.visible(batch), NEG_INF)
        length = len(batch.item_L)
        # Place x holds recency L - x: target t reads a window that starts at L - length_T. A tenth of the time of gathering T * L values.
        by_place = bias_P.new_full((2 * length,), NEG_INF)
        seen = min(length, self.longest)
        by_place[length - seen : length] = bias_P[self.bucket[torch.arange(seen, 0, -1)]]
        return by_place.unfold(0, length, 1)[length - batch.length_T]

    def buckets(self, batch: UserBatch) -> Tensor:
        """Recency bucket of every behavior for every target, 0 for those at or after it: int64 [T, L]."""
        bucket_TL = self.bucket[batch.recency_TL().clamp(0, MAX_LENGTH)]
        if not self.ages:
            return bucket_TL
        time_T, time_L = _times(batch)
        return bucket_TL * NUM_AGES + self._age(time_T[:, None] - time_L)

    def _age(self, age_s: Tensor) -> Tensor:
        return self.age[age_s.clamp_min(0).div(3600, rounding_mode="floor").clamp_max(len(self.age) - 1)]

    def at(self, batch: UserBatch, content_ML: Tensor, index_MK: Tensor) -> Kept:
        """The behaviors `index_MK` with their differentiable scores and recency buckets."""
        return self._kept(batch, content_ML.gather(1, index_MK), index_MK)

    def of(self, batch: UserBatch, rows: Rows, index_MK: Tensor, allowed_MK: Tensor | None = None) -> Kept:
        """The same for a search that found `index_MK` otherwise; what is not `allowed_MK` is not kept."""
        content_MK = torch.einsum("md,mkd->mk", rows.target_MD / math.sqrt(2 * self.space.width), rows.behavior_LD[index_MK])
        return self._kept(batch, content_MK, index_MK, allowed_MK)

    def of_all(self, batch: UserBatch, rows: Rows) -> Kept:
        """All L behaviors as kept, in order. What a target's candidates have in common is computed once."""
        candidates, length = batch.target_item_TC.shape[1], batch.item_L.shape[0]
        bucket_TL, visible_TL = self.buckets(batch), self.visible(batch)
        bias_TL = self.recency_bias()[bucket_TL].masked_fill(~visible_TL, NEG_INF)
        score_TCL = self.content(rows).view(-1, candidates, length) + bias_TL[:, None]
        if self.bonus is not None:
            score_TCL = score_TCL + self.bonus * (batch.item_key_L == batch.target_key_TC[:, :, None])
        bucket_ML, valid_ML = (x_TL.repeat_interleave(candidates, dim=0) for x_TL in (bucket_TL, visible_TL))
        return Kept(torch.arange(length).expand_as(bucket_ML), bucket_ML, score_TCL.flatten(0, 1), valid_ML, whole=True)

    def seen(self, batch: UserBatch, index_MK: Tensor) -> tuple[Tensor, Tensor]:
        """Recency buckets of the behaviors `index_MK`, and whether the targets may see them: int64 and bool [M, K]."""
        recency_MK = batch.length_T.repeat_interleave(batch.target_item_TC.shape[1])[:, None] - index_MK
        bucket_MK = self.bucket[recency_MK.clamp(0, MAX_LENGTH)]
        if self.ages:
            time_T, time_L = _times(batch)
            now_M = time_T.repeat_interleave(batch.target_item_TC.shape[1])
            bucket_MK = bucket_MK * NUM_AGES + self._age(now_M[:, None] - time_L[index_MK])
        return bucket_MK, (recency_MK >= 1) & (recency_MK <= self.longest)

    def _kept(self, batch: UserBatch, content_MK: Tensor, index_MK: Tensor, allowed_MK: Tensor | None = None) -> Kept:
        bucket_MK, valid_MK = self.seen(batch, index_MK)
        if allowed_MK is not None:
            valid_MK = valid_MK & allowed_MK
        score_MK = content_MK + self.recency_bias()[bucket_MK]
        if self.bonus is not None:
            score_MK = score_MK + self.bonus * (batch.item_key_L[index_MK] == batch.target_key_TC.reshape(-1, 1))
        return Kept(index_MK, bucket_MK, score_MK.masked_fill(~valid_MK, NEG_INF), valid_MK)


def _times(batch: UserBatch) -> tuple[Tensor, Tensor]:
    assert batch.time_T is not None and batch.time_L is not None, "a model that reads ages needs the times of its batches"
    return batch.time_T, batch.time_L
