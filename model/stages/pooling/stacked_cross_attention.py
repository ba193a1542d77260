"""Stacked cross attention from the target to the history (STCA): the target asks again, knowing the answers so far."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.cross_attention import FoldedAttention
from model.stages.options import at_least_one
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register


class StackedCrossAttention(nn.Module):
    """x_0 = u; y = x + attention(norm(x), history); x' = y + W_2 GELU(W_1 norm(y)); the interest is the last x (zeros with no history).

    Args: `width` R; `layers`; `heads` of `head_width` each; `hidden` of the feed-forward network.
    """

    parts = 1

    def __init__(self, width: int, layers: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.ModuleList(FoldedAttention(width, width, heads, head_width) for _ in range(layers))
        self.query_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.forward_norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)) for _ in range(layers)
        )

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        x_MR = content.target_MR
        stack = zip(self.attention, self.query_norm, self.forward_norm, self.feed_forward, strict=True)
        for attention, query_norm, forward_norm, feed_forward in stack:
            x_MR = x_MR + attention(query_norm(x_MR), kept, content)
            x_MR = x_MR + feed_forward(forward_norm(x_MR))
        return x_MR * kept.valid_MK.any(dim=1, keepdim=True)


@register("pooling", "stacked_cross_attention", "STCA (arXiv 2511.06077)")
@dataclass(frozen=True, slots=True)
class StackedCrossAttentionConfig:
    """`layers`; `heads` of `head_width` each; `hidden` of the feed-forward network between the layers."""

    layers: int = 2
    heads: int = 4
    head_width: int = 12
    hidden: int = 96

    def __post_init__(self) -> None:
        at_least_one(self, "layers", "heads", "head_width", "hidden")

    def build(self, parts: Parts) -> StackedCrossAttention:
        """The stage."""
        return StackedCrossAttention(parts.width, self.layers, self.heads, self.head_width, self.hidden)
