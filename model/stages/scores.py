"""The score of a behavior for a target in attention space (equation 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.config import ModelConfig
from model.recency import MAX_LENGTH, NUM_AGES, SESSION_GAP_S, bucket_of_hours, bucket_of_recency
from model.stages.protocols import Kept
from model.tables import Rows, Space
from model.tables_layout import UNKNOWN_ROW

NEG_INF = float("-inf")
_FIRST_BONUS = 0.5
"""Of the target's own item, before it is learned: enough for search to keep that item's behaviors before others, too little for attention
to look at nothing else. Beside hand-made features the click's loss does not lift it from 0."""


class DareScore(nn.Module):
    """score_j = <a(t), a(j)> / sqrt(2 d) + <time(0), time(p_j)> / sqrt(d) [+ bonus where item_j is the target, and where its category is].

    Args: `space` attention space; `config` says which bonus is learned, how many of the newest behaviors are used (`longest`), whether p_j
    counts places or `sessions` back, and whether a behavior's time has its age as well (`ages`: buckets are of pairs, recency * NUM_AGES +
    age).
    """

    def __init__(self, space: Space, config: ModelConfig) -> None:
        super().__init__()
        # The model owns the space's parameters; a second registration here would name them twice.
        self._space = (space,)
        self.longest = min(config.longest or MAX_LENGTH, MAX_LENGTH)
        self.bonus = nn.Parameter(torch.tensor(_FIRST_BONUS)) if config.same_item_bonus else None
        self.category_bonus = nn.Parameter(torch.zeros(())) if config.same_category_bonus else None
        self.ages, self.sessions = config.ages, config.sessions
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
        if self.ages or self.sessions or torch.compiler.is_exporting():
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
        back_TL = batch.recency_TL()
        if self.sessions:
            newest_T, session_L = _sessions(batch)
            back_TL = (newest_T[:, None] - session_L + 1) * (back_TL >= 1)
        bucket_TL = self.bucket[back_TL.clamp(0, MAX_LENGTH)]
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
        score_ML = score_TCL.flatten(0, 1)
        if (bonus_ML := self.bonuses(batch)) is not None:
            score_ML = score_ML + bonus_ML
        bucket_ML, valid_ML = (x_TL.repeat_interleave(candidates, dim=0) for x_TL in (bucket_TL, visible_TL))
        return Kept(torch.arange(length).expand_as(bucket_ML), bucket_ML, score_ML, valid_ML, whole=True)

    def over_all(self, batch: UserBatch, rows: Rows) -> Tensor:
        """Score of every behavior for every target, -inf where it must not see it: [M, L]; of a target without behaviors nothing is hidden.

        For losses over all behaviors. Not by `visible_bias`: its gradient would pass through [L, L] values, this one through [T, L].
        """
        num_targets, num_candidates = batch.target_item_TC.shape
        score_ML = self.content(rows)
        if (bonus_ML := self.bonuses(batch)) is not None:
            score_ML = score_ML + bonus_ML
        any_T1 = (batch.length_T > 0)[:, None]
        bias_TL = self.recency_bias()[self.buckets(batch)].masked_fill(~self.visible(batch) & any_T1, NEG_INF)
        return (score_ML.view(num_targets, num_candidates, -1) + bias_TL[:, None]).flatten(0, 1)

    def bonuses(self, batch: UserBatch, index_MK: Tensor | None = None) -> Tensor | None:
        """What behaviors gain that are of the target's own item or category, where that is learned: [M, L], or [M, K] of those `index_MK`.

        Items are told apart by identity, categories by row: an unknown category is not the target's.
        """
        found: Tensor | None = None
        if self.bonus is not None:
            key = batch.item_key_L if index_MK is None else batch.item_key_L[index_MK]
            found = self.bonus * (key == batch.target_key_TC.reshape(-1, 1))
        if self.category_bonus is not None:
            category = batch.category_L if index_MK is None else batch.category_L[index_MK]
            own_M1 = batch.target_category_TC.reshape(-1, 1)
            matched = self.category_bonus * ((category == own_M1) & (own_M1 > UNKNOWN_ROW))
            found = matched if found is None else found + matched
        return found

    def seen(self, batch: UserBatch, index_MK: Tensor) -> tuple[Tensor, Tensor]:
        """Recency buckets of the behaviors `index_MK`, and whether the targets may see them: int64 and bool [M, K]."""
        candidates = batch.target_item_TC.shape[1]
        recency_MK = back_MK = batch.length_T.repeat_interleave(candidates)[:, None] - index_MK
        if self.sessions:
            newest_T, session_L = _sessions(batch)
            back_MK = (newest_T.repeat_interleave(candidates)[:, None] - session_L[index_MK] + 1) * (recency_MK >= 1)
        bucket_MK = self.bucket[back_MK.clamp(0, MAX_LENGTH)]
        if self.ages:
            time_T, time_L = _times(batch)
            now_M = time_T.repeat_interleave(candidates)
            bucket_MK = bucket_MK * NUM_AGES + self._age(now_M[:, None] - time_L[index_MK])
        return bucket_MK, (recency_MK >= 1) & (recency_MK <= self.longest)

    def _kept(self, batch: UserBatch, content_MK: Tensor, index_MK: Tensor, allowed_MK: Tensor | None = None) -> Kept:
        bucket_MK, valid_MK = self.seen(batch, index_MK)
        if allowed_MK is not None:
            valid_MK = valid_MK & allowed_MK
        score_MK = content_MK + self.recency_bias()[bucket_MK]
        if (bonus_MK := self.bonuses(batch, index_MK)) is not None:
            score_MK = score_MK + bonus_MK
        return Kept(index_MK, bucket_MK, score_MK.masked_fill(~valid_MK, NEG_INF), valid_MK)


def _times(batch: UserBatch) -> tuple[Tensor, Tensor]:
    assert batch.time_T is not None and batch.time_L is not None, "a model that reads ages or sessions needs the times of its batches"
    return batch.time_T, batch.time_L


def _sessions(batch: UserBatch) -> tuple[Tensor, Tensor]:
    """Numbers of sessions, ascending: that of the newest behavior before each target [T] and that of every behavior [L]."""
    begins_L = functional.pad(_times(batch)[1].diff() > SESSION_GAP_S, (1, 0))
    session_L = begins_L.cumsum(0)
    return session_L[(batch.length_T - 1).clamp_min(0)], session_L
