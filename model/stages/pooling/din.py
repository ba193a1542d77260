"""Learned activation (DIN): a small network of target and behavior says how much of each behavior enters the interest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.cross_attention import masked_softmax, products
from model.stages.options import at_least_one
from model.stages.pooling_content import weighted_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register
from model.stages.selection import best


class Din(nn.Module):
    """h = sum_k w_k e_k, w_k = v . PReLU(W [q ; e_k ; q - e_k ; q * e_k] + b) + c, with q = u and e_k the content of behavior k.

    Args: `width` R; `hidden` of the network; `softmax` over the weights; `top` keep that many by the learned score, 0 for all.
    """

    parts = 1

    def __init__(self, width: int, hidden: int, softmax: bool, top: int) -> None:
        super().__init__()
        self.softmax, self.top = softmax, top
        self.first = nn.Linear(4 * width, hidden)
        self.slope = nn.Parameter(torch.full((), 0.25))
        self.last = nn.Linear(hidden, 1)

    def logits(self, kept: Kept, content: Content) -> Tensor:
        """The network's answer for every kept behavior: [M, K]."""
        target_MR = content.target_MR
        of_target, of_behavior, of_difference, of_product = self.first.weight.chunk(4, dim=1)
        # W [q ; e ; q - e ; q * e] = (W_1 + W_3) q + (W_2 - W_3 + W_4 diag(q)) e: one product with the history, no [M, K, 4R].
        constant_MH = target_MR @ (of_target + of_difference).T + self.first.bias
        linear_MHR = (of_behavior - of_difference) + of_product * target_MR[:, None]
        # v . PReLU(x) = slope v . x + (1 - slope) v . relu(x), so that the backward pass needs relu(x) alone.
        last_1H = self.last.weight
        straight_MK = products(last_1H @ linear_MHR, kept, content)[:, 0] + constant_MH @ last_1H[0, :, None]
        bent_MHK = torch.relu(products(linear_MHR, kept, content) + constant_MH[:, :, None])
        bent_MK = (last_1H @ bent_MHK)[:, 0]
        return self.slope * straight_MK + (1 - self.slope) * bent_MK + self.last.bias

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        logit_MK, valid_MK = self.logits(kept, content), kept.valid_MK
        if self.top:
            chosen = best(logit_MK.detach().masked_fill(~valid_MK, float("-inf")), self.top)
            valid_MK = valid_MK & torch.zeros_like(valid_MK).scatter(1, chosen, True)
        weight_MK = masked_softmax(logit_MK, valid_MK) if self.softmax else logit_MK * valid_MK
        return weighted_content(weight_MK, kept, content)


@register("pooling", "din", "DIN (arXiv 1706.06978)")
@dataclass(frozen=True, slots=True)
class DinConfig:
    """`hidden` width of the network; `softmax` of its answers (the paper sums them as they are); `search` keeps the K best by it."""

    hidden: int = 36
    softmax: bool = False
    search: bool = False

    def __post_init__(self) -> None:
        at_least_one(self, "hidden")

    def build(self, parts: Parts) -> Din:
        """The stage."""
        return Din(parts.width, self.hidden, self.softmax, parts.config.kept if self.search else 0)
