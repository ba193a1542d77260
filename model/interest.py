"""Stage 2, target attention over the kept behaviors (ESU): weights from attention space, content from representation space."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.recency import NUM_BUCKETS
from model.search import Kept
from model.tables import Rows, Tables


class Pooling(Protocol):
    """Turns the kept behaviors into one interest vector and the mass that softmax discards."""

    def __call__(self, batch: UserBatch, kept: Kept, rows: Rows | None = None) -> tuple[Tensor, Tensor]: ...


def attention_weight(kept: Kept) -> Tensor:
    """Softmax of the scores over the valid kept (equation 3): [M, K]; a row with nothing kept is all zeros, never NaN."""
    any_valid = kept.valid_MK.any(dim=1, keepdim=True)
    return torch.softmax(kept.score_MK.masked_fill(~any_valid, 0.0), dim=1) * any_valid


def attention_mass(kept: Kept) -> Tensor:
    """log(1 + sum_k exp(score_k)) over the kept: [M], 0 where nothing is kept. Ten purchases weigh more than one here."""
    return functional.softplus(torch.logsumexp(kept.score_MK, dim=1).clamp_min(-80.0)) * kept.valid_MK.any(dim=1)


class TargetAttention(nn.Module):
    """h = sum_k w_k [item ; category ; time](k) (equation 4). Args: `tables` the representation tables."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables

    def forward(self, batch: UserBatch, kept: Kept, rows: Rows | None = None) -> tuple[Tensor, Tensor]:
        """Returns: interest [M, 3d] and mass [M]."""
        weight_MK = attention_weight(kept)
        content_LD = (rows or self.tables.rows([batch])[0]).behavior_LD
        # A product with a mostly empty matrix is several times cheaper than gathering K rows per target, above all in the backward pass.
        weight_ML = weight_MK.new_zeros(len(weight_MK), len(content_LD)).scatter(1, kept.index_MK, weight_MK)
        weight_MP = weight_MK.new_zeros(len(weight_MK), NUM_BUCKETS).scatter_add(1, kept.recency_MK, weight_MK)
        return torch.cat([weight_ML @ content_LD, weight_MP @ self.tables.recency.weight], dim=1), attention_mass(kept)
