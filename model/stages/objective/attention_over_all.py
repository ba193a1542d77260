"""The auxiliary loss (DARE, equation 7): the click predicted from attention over all behaviors, by a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.head import TargetAwareHead
from model.stages.pooling.target_attention import TargetAttention
from model.stages.protocols import View
from model.stages.registry import Parts, register
from model.stages.search.everything import Everything


class AttentionOverAll(nn.Module):
    """Binary cross-entropy of a click from the features of equation 5 without search and without extras."""

    def __init__(self, parts: Parts, hidden: tuple[int, int]) -> None:
        super().__init__()
        self.search = Everything(parts.score)
        self.pooling = TargetAttention()
        self.head = TargetAwareHead(parts.width, 1, 0, hidden, parts.config.target_aware)

    def logits(self, views: Sequence[View]) -> Tensor:
        """[sum of T * C]."""
        interest = torch.cat([self.pooling(view.batch, self.search(view.batch, view.attn), view.content) for view in views])
        target = torch.cat([view.content.target_MR for view in views])
        logit: Tensor = self.head(target, interest, interest[:, :0])
        return logit

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.logits(views), label_M)


@register("objective", "attention_over_all", "DARE (arXiv 2410.02604), equation 7")
@dataclass(frozen=True, slots=True)
class AttentionOverAllConfig:
    """`first`, `second` hidden widths of the head."""

    first: int = 80
    second: int = 40

    def __post_init__(self) -> None:
        for name in ("first", "second"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    def build(self, parts: Parts) -> AttentionOverAll:
        """The stage."""
        return AttentionOverAll(parts, (self.first, self.second))
