"""Selecting the K best of every row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def best(score_ML: Tensor, k: int) -> Tensor:
    """Indices of the k highest of each row, in no order: int64 [M, min(k, L)]. In an exported graph L is at least k."""
    if torch.compiler.is_exporting():
        return torch.topk(score_ML, k, dim=1).indices
    length = score_ML.shape[1]
    if k >= length:
        return torch.arange(length).expand_as(score_ML)
    # NumPy's selection takes a quarter of torch's time.
    index = np.argpartition(score_ML.detach().numpy(), length - k, axis=1)[:, length - k :]
    return torch.from_numpy(np.ascontiguousarray(index))
