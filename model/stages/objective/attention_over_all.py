"""The auxiliary loss (DARE, equation 7): the click predicted from attention over all behaviors, by a head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from model.head import TargetAwareHead
from model.stages.click_head import ClickHeadConfig, click_logits
from model.stages.pooling.target_attention import TargetAttention
from model.stages.protocols import View
from model.stages.registry import Parts, register
from model.stages.scores import DareScore
from model.stages.search.everything import Everything


class AttentionOverAll(nn.Module):
    """Binary cross-entropy of a click from the features of equation 5 without search and without extras."""

    def __init__(self, score: DareScore, head: TargetAwareHead) -> None:
        super().__init__()
        self.search = Everything(score)
        self.pooling = TargetAttention()
        self.head = head

    def logits(self, views: Sequence[View]) -> Tensor:
        """[sum of T * C]."""
        interest = [self.pooling(view.batch, self.search(view.batch, view.attn), view.content) for view in views]
        return click_logits(self.head, views, interest)

    def forward(self, views: Sequence[View], label_M: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(self.logits(views), label_M)


@register("objective", "attention_over_all", "DARE (arXiv 2410.02604), equation 7")
@dataclass(frozen=True, slots=True)
class AttentionOverAllConfig(ClickHeadConfig):
    """`first`, `second` hidden widths of the head."""

    def build(self, parts: Parts) -> AttentionOverAll:
        """The stage."""
        return AttentionOverAll(parts.score, self.head(parts))
