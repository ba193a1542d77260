"""Target attention over each of several segments of the kept behaviors, apart (MIRRN)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.stages.cross_attention import FoldedAttention
from model.stages.options import integer
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register


class SegmentAttention(nn.Module):
    """h = [attention_1(u, segment 1) ; ... ; attention_S(u, segment S)]. Args: `attention` of each segment."""

    def __init__(self, attention: list[FoldedAttention]) -> None:
        super().__init__()
        self.parts = len(attention)
        self.attention = nn.ModuleList(attention)

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        size = kept.index_MK.shape[1] // self.parts
        if size * self.parts != kept.index_MK.shape[1]:
            raise ValueError(
                f"{kept.index_MK.shape[1]} kept slots do not fall into {self.parts} segments: choose a search that keeps so many"
            )
        interest = []
        for segment, attention in enumerate(self.attention):
            part = slice(segment * size, (segment + 1) * size)
            own = Kept(kept.index_MK[:, part], kept.recency_MK[:, part], kept.score_MK[:, part], kept.valid_MK[:, part])
            encoded = None if content.encoded_MKR is None else content.encoded_MKR[:, part]
            interest.append(attention(content.target_MR, own, replace(content, encoded_MKR=encoded)))
        return torch.cat(interest, dim=1)


@register("pooling", "segment_attention", "MIRRN (arXiv 2411.15005)")
@dataclass(frozen=True, slots=True)
class SegmentAttentionConfig:
    """`segments` that the kept fall into; `heads` of `head_width` each."""

    segments: int = 3
    heads: int = 4
    head_width: int = 12

    def __post_init__(self) -> None:
        integer("segments", self.segments, 1, 64)
        integer("heads", self.heads, 1, 1024)
        integer("head_width", self.head_width, 1, 1024)

    def build(self, parts: Parts) -> SegmentAttention:
        """The stage."""
        return SegmentAttention([FoldedAttention(parts.width, parts.width, self.heads, self.head_width) for _ in range(self.segments)])
