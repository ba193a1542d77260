"""Random hyperplane hashes: vectors at a small angle share most bits (SimHash)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Hyperplanes(nn.Module):
    """bit_i(x) = whether <x, plane_i> is 0 or more. Args: `width` of x; `bits`; `seed` of the planes, which are never trained.

    The sign is taken in float64: no runtime's order of summation moves a float32 product across zero.
    """

    def __init__(self, width: int, bits: int, seed: int) -> None:
        super().__init__()
        self.planes: Tensor
        made = torch.randn(width, bits, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("planes", made)

    def forward(self, rows_XD: Tensor) -> Tensor:
        """bool [X, bits]."""
        return rows_XD.detach().double() @ self.planes >= 0


def equal_bits(one_MB: Tensor, other_LB: Tensor) -> Tensor:
    """Bits in which fingerprints agree, their number less the Hamming distance: whole numbers in float32, [M, L]."""
    one, other = one_MB.float(), other_LB.float()
    differ_ML = one.sum(dim=1, keepdim=True) + other.sum(dim=1) - 2 * (one @ other.T)
    equal_ML: Tensor = one.shape[1] - differ_ML
    return equal_ML
