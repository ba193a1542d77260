"""Piecewise-linear encoding of the candidate features, so that a linear layer reads each as a curve (arXiv 2203.05556)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kernels import FeatureBins
from kernels.ranking.arguments import NO_BIN

F32 = npt.NDArray[np.float32]
_SAMPLE_ROWS = 200_000


def quantile_bins(extra_XE: F32, most: int, seed: int = 0) -> FeatureBins:
    """Up to `most` bins of each feature between quantiles of its values, f32 [X, E]; equal quantiles are one edge."""
    rng = np.random.default_rng(seed)
    if len(extra_XE) > _SAMPLE_ROWS:
        extra_XE = extra_XE[rng.choice(len(extra_XE), _SAMPLE_ROWS, replace=False)]
    num = extra_XE.shape[1]
    low, width = np.full((num, most), NO_BIN, dtype=np.float32), np.ones((num, most), dtype=np.float32)
    if len(extra_XE):
        # A quantile that is a value of the data: between two values there may be nothing to tell apart.
        edge = np.quantile(extra_XE, np.linspace(0, 1, most + 1), axis=0, method="nearest")
        for e in range(num):
            distinct = np.unique(edge[:, e])
            bins = len(distinct) - 1
            low[e, :bins], width[e, :bins] = distinct[:-1], np.diff(distinct)
    return FeatureBins(low, width)


class PiecewiseLinear(nn.Module):
    """[x ; clip((x - low) / width, 0, 1) of every bin]: from E features to E (1 + B). Args: `num_features` E, `bins` B."""

    low: Tensor
    width: Tensor

    def __init__(self, num_features: int, bins: int) -> None:
        super().__init__()
        self.register_buffer("low", torch.full((num_features, bins), float(NO_BIN)))
        self.register_buffer("width", torch.ones((num_features, bins)))

    def fit(self, bins: FeatureBins) -> None:
        """Take these bins."""
        self.low.copy_(torch.from_numpy(bins.low_EB))
        self.width.copy_(torch.from_numpy(bins.width_EB))

    def forward(self, extra_ME: Tensor) -> Tensor:
        bins = ((extra_ME[:, :, None] - self.low) / self.width).clamp(0, 1)
        return torch.cat([extra_ME, bins.flatten(1)], dim=1)
