"""What the objectives over all behaviors share: the click predicted from one interest vector, by a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.head import TargetAwareHead
from model.stages.options import at_least_one
from model.stages.protocols import View
from model.stages.registry import Parts


@dataclass(frozen=True, slots=True)
class ClickHeadConfig:
    """`first`, `second` hidden widths of the head."""

    first: int = 80
    second: int = 40

    def __post_init__(self) -> None:
        at_least_one(self, "first", "second")

    def head(self, parts: Parts) -> TargetAwareHead:
        """A head for one interest vector and nothing extra."""
        return TargetAwareHead(parts.width, 1, 0, 0, (self.first, self.second), parts.config.target_aware)


def click_logits(head: TargetAwareHead, views: Sequence[View], interest: Sequence[Tensor]) -> Tensor:
    """Logits that `head` gives the interest [T * C, R] of each view (equations 5 and 6): [sum of T * C]."""
    pooled, target = torch.cat(list(interest)), torch.cat([view.content.target_MR for view in views])
    nothing = pooled[:, :0]
    logit: Tensor = head(target, pooled, nothing, nothing)
    return logit
