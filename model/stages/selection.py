"""Selecting the K best of every row."""

from __future__ import annotations

import torch
from torch import Tensor

from model.batch import UserBatch

PLACES = 1 << 17
"""Above every recency: what one level of `newest_best` counts."""


def best(score_ML: Tensor, k: int) -> Tensor:
    """Indices of the k highest of each row, in no order: int64 [M, min(k, L)]. In an exported graph L is at least k."""
    if torch.compiler.is_exporting():
        return torch.topk(score_ML, k, dim=1).indices
    length = score_ML.shape[1]
    if k >= length:
        return torch.arange(length).expand_as(score_ML)
    # NumPy's argpartition takes up to twenty times as long where much of a row is -inf (hidden), and four times where rows are long.
    return torch.topk(score_ML.detach(), k, dim=1, sorted=False).indices


def newest_best(level_ML: Tensor, batch: UserBatch, visible_TL: Tensor, k: int) -> Tensor:
    """Indices of the k highest of each row that are visible, newest first among equals: int64 [M, min(k, L)].

    M = T * C rows, or T rows that are the same for all candidates. `level_ML` whole numbers (or -inf: never) of which level * 2^17 is exact
    in its dtype: below 2^7 in float32, below 2^36 in float64. No two keys are equal, so every runtime finds the same ones.
    """
    level_TCL = level_ML.view(batch.length_T.shape[0], -1, level_ML.shape[1]) * PLACES - batch.recency_TL()[:, None]
    return best(level_TCL.masked_fill(~visible_TL[:, None], float("-inf")).flatten(0, 1), k)
