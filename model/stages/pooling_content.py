"""Reading the content of kept behaviors: as one weighted sum, or row by row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from model.stages.protocols import Content, Kept

_MOST_BUCKETS = 1000
"""With more of them, pairs of recency and age, K rows are gathered faster than that many columns are summed."""


def weighted_content(weight_MK: Tensor, kept: Kept, content: Content) -> Tensor:
    """sum_k weight_k * content(k): [M, R]; weights of behaviors that are not valid must be zero."""
    if content.encoded_MKR is not None:
        return torch.einsum("mk,mkr->mr", weight_MK, content.encoded_MKR)
    # A product with a mostly empty matrix is several times cheaper than gathering K rows per target, above all in the backward pass.
    rows, size = content.rows.behavior_LD, weight_MK.shape[0]
    weight_ML = weight_MK if kept.whole else weight_MK.new_zeros(size, rows.shape[0]).scatter_add(1, kept.index_MK, weight_MK)
    return torch.cat([weight_ML @ rows, _weighted_recency(weight_MK, kept.recency_MK, content.recency_PD)], dim=1)


def _weighted_recency(weight_MK: Tensor, recency_MK: Tensor, recency_PD: Tensor) -> Tensor:
    """sum_k weight_k * recency(k): [M, d]."""
    if len(recency_PD) > _MOST_BUCKETS:
        return (weight_MK[:, None] @ functional.embedding(recency_MK, recency_PD)).squeeze(1)
    weight_MP = weight_MK.new_zeros(weight_MK.shape[0], len(recency_PD)).scatter_add(1, recency_MK, weight_MK)
    return weight_MP @ recency_PD


def kept_content(kept: Kept, content: Content) -> Tensor:
    """[item ; category ; recency] of every kept behavior: [M, K, R], zeros where not valid."""
    if content.encoded_MKR is not None:
        return content.encoded_MKR
    rows = torch.cat([content.rows.behavior_LD[kept.index_MK], content.recency_PD[kept.recency_MK]], dim=2)
    return rows * kept.valid_MK[:, :, None]
