"""The head: target-aware product, BatchNorm and a small MLP (equations 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TargetAwareHead(nn.Module):
    """x = [u ; h ; u * h ; extra ; given] -> BatchNorm -> Linear -> PReLU -> Linear -> PReLU -> Linear.

    Args: `width` R of u; `parts` interest vectors of that width in h, each multiplied by u; `extra` numbers that are computed from what is
    learned, `given` those that are data; `hidden` the two hidden widths; `product` False leaves u * h out.
    """

    def __init__(self, width: int, parts: int, extra: int, given: int, hidden: tuple[int, int], product: bool = True) -> None:
        super().__init__()
        self.parts, self.product = parts, product
        self.learned = width + width * parts * (2 if product else 1) + extra
        self.norm = nn.BatchNorm1d(self.learned)
        # Without a scale of its own, which the layer after it has anyway, nothing before that layer needs a gradient.
        self.given_norm = nn.BatchNorm1d(given, affine=False) if given else None
        self.first = nn.Linear(self.learned + given, hidden[0])
        self.second = nn.Linear(hidden[0], hidden[1])
        self.last = nn.Linear(hidden[1], 1)
        self.first_slope = nn.PReLU()
        self.second_slope = nn.PReLU()

    def forward(self, target_MR: Tensor, interest_MR: Tensor, extra_ME: Tensor, given_MG: Tensor) -> Tensor:
        product = [target_MR.repeat(1, self.parts) * interest_MR] if self.product else []
        x = self.norm(torch.cat([target_MR, interest_MR, *product, extra_ME], dim=1))
        y = functional.linear(x, self.first.weight[:, : self.learned], self.first.bias)
        return self._rest(y if self.given_norm is None else y + self._of_given(given_MG))

    def of_given(self, given_MG: Tensor) -> Tensor:
        """The logit with everything learned left out: [M]."""
        return self._rest(self._of_given(given_MG) + self.first.bias)

    def _of_given(self, given_MG: Tensor) -> Tensor:
        assert self.given_norm is not None, "this head reads nothing that is data"
        weight = self.first.weight[:, self.learned :]
        return functional.linear(self.given_norm(given_MG.to(weight.dtype)), weight)

    def _rest(self, first_MH: Tensor) -> Tensor:
        y = _prelu(first_MH, self.first_slope.weight)
        y = _prelu(self.second(y), self.second_slope.weight)
        logit: Tensor = self.last(y).squeeze(1)
        return logit


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    """max(x, 0) + slope * min(x, 0), as a mix of relu and identity: less than half the time of torch's own with its gradients."""
    return torch.lerp(torch.relu(x), x, slope)
