"""Stage 2, target attention over the kept behaviors (ESU): weights from attention space, content from representation space."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.batch import UserBatch
from model.search import Kept
from model.tables import Tables


class Pooling(Protocol):
    """Turns the kept behaviors into one interest vector and the mass that softmax discards."""

    def __call__(self, batch: UserBatch, kept: Kept) -> tuple[Tensor, Tensor]: ...


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

    def forward(self, batch: UserBatch, kept: Kept) -> tuple[Tensor, Tensor]:
        """Returns: interest [M, 3d] and mass [M]."""
        weight_MK = attention_weight(kept)
        content_LR = self.tables.content(batch.item_L, batch.category_L)
        content = functional.embedding_bag(kept.index_MK, content_LR, per_sample_weights=weight_MK, mode="sum")
        recency = functional.embedding_bag(kept.recency_MK, self.tables.recency.weight, per_sample_weights=weight_MK, mode="sum")
        return torch.cat([content, recency], dim=1), attention_mass(kept)
