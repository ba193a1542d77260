"""What the stages say to one another. M = T * C targets of one user, L behaviors, K kept, R = [item ; category ; recency] wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from model.batch import UserBatch
from model.tables import Rows


@dataclass(frozen=True, slots=True)
class Kept:
    """What search kept for each target.

    `index_MK` int64 positions in the user's sequence (any position where not valid), `recency_MK` int64 recency buckets, `score_MK`
    differentiable DARE scores, -inf where `valid_MK` is False (fewer than K behaviors). `whole`: every row of `index_MK` is 0..L-1, so that
    nothing needs to be gathered.
    """

    index_MK: Tensor
    recency_MK: Tensor
    score_MK: Tensor
    valid_MK: Tensor
    whole: bool = False


class Search(Protocol):
    """Keeps behaviors for each target; `attn` are the rows of attention space."""

    def __call__(self, batch: UserBatch, attn: Rows) -> Kept: ...


class Encoder(Protocol):
    """Turns the kept behaviors' content [M, K, R] into other content of the same shape; `target_MR` is u = r(t, 0)."""

    def __call__(self, content_MKR: Tensor, target_MR: Tensor, kept: Kept) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Content:
    """What pooling pools: `rows` [item ; category] of all behaviors and targets in representation space, `recency_PD` its recency table,
    `target_MR` u = r(t, 0), and `encoded_MKR`, what the encoder made of the kept behaviors (None without one)."""

    rows: Rows
    recency_PD: Tensor
    target_MR: Tensor
    encoded_MKR: Tensor | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """What ranking made of a view, differentiable: `interest_MH` [M, `parts` * R] as it came from pooling, and `logit_M`."""

    interest_MH: Tensor
    logit_M: Tensor


@dataclass(frozen=True, slots=True)
class View:
    """One user's batch with what both embedding spaces say about it; `ranked` where an objective reads it."""

    batch: UserBatch
    attn: Rows
    content: Content
    ranked: Ranked | None = None


class Pooling(Protocol):
    """Turns the kept behaviors into interest: [M, `parts` * R], all zero where nothing is kept."""

    parts: int

    def __call__(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor: ...


class Objective(Protocol):
    """A loss added to the click's binary cross-entropy; `label_M` f32 of all views' targets in order."""

    def __call__(self, views: Sequence[View], label_M: Tensor) -> Tensor: ...
