"""A small transformer over the kept behaviors, each joined with the target (TransAct)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from model.stages.cross_attention import masked_softmax
from model.stages.options import at_least_one
from model.stages.protocols import Kept
from model.stages.registry import Parts, register


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + W_2 relu(W_1 norm(x)): [M, K, R], every slot attending to the valid ones."""

    def __init__(self, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.shape = (heads, head_width)
        self.attention_norm, self.forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, heads * head_width, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * head_width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x_MKR: Tensor, valid_MK: Tensor) -> Tensor:
        normed = self.attention_norm(x_MKR)
        query, key, value = (
            linear(normed).view(*x_MKR.shape[:2], *self.shape).transpose(1, 2) for linear in (self.query, self.key, self.value)
        )  # [M, H, K, W]
        score_MHKK = query @ key.transpose(2, 3) / math.sqrt(self.shape[1])
        mixed = masked_softmax(score_MHKK, valid_MK[:, None, None]) @ value
        x_MKR = x_MKR + self.out(mixed.transpose(1, 2).flatten(2))
        x: Tensor = x_MKR + self.feed_forward(self.forward_norm(x_MKR))
        return x


class Transformer(nn.Module):
    """x_k = W_e e_k + W_u u + b, then `layers` of self-attention among the valid kept; zeros where not valid.

    Args: `width` R; `layers`; `heads` of `head_width` each; `hidden` of the feed-forward networks.
    """

    def __init__(self, width: int, layers: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.of_behavior, self.of_target = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.layers = nn.ModuleList(_Layer(width, heads, head_width, hidden) for _ in range(layers))

    def forward(self, content_MKR: Tensor, target_MR: Tensor, kept: Kept) -> Tensor:
        x_MKR: Tensor = self.of_behavior(content_MKR) + self.of_target(target_MR)[:, None]
        for layer in self.layers:
            x_MKR = layer(x_MKR, kept.valid_MK)
        return x_MKR * kept.valid_MK[:, :, None]


@register("encoder", "transformer", "TransAct (arXiv 2306.00248), TransAct V2 (arXiv 2506.02267)")
@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """`layers`; `heads` of `head_width` each; `hidden` of the feed-forward networks."""

    layers: int = 2
    heads: int = 2
    head_width: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        at_least_one(self, "layers", "heads", "head_width", "hidden")

    def build(self, parts: Parts) -> Transformer:
        """The stage."""
        return Transformer(parts.width, self.layers, self.heads, self.head_width, self.hidden)
