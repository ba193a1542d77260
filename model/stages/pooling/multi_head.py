"""Multi-head target attention with maps and scores of its own, over the kept behaviors and over the newest (SIM, ETA)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.batch import UserBatch
from model.recency import MAX_LENGTH, bucket_of_recency
from model.stages.cross_attention import Heads, masked_softmax
from model.stages.options import integer
from model.stages.pooling_content import kept_content
from model.stages.protocols import Content, Kept
from model.stages.registry import Parts, register


def attend(question_XQR: Tensor, content_XJR: Tensor, valid_XJ: Tensor) -> Tensor:
    """sum_j softmax_j(question . content_j) content_j over the valid j: [X, Q, R], all zero where none is valid."""
    weight_XQJ = masked_softmax(torch.bmm(question_XQR, content_XJR.transpose(1, 2)), valid_XJ[:, None])
    return torch.bmm(weight_XQJ, content_XJR)


class MultiHead(nn.Module):
    """[attention over the kept ; attention over the newest `short`], each with maps of its own. Args: `long`, `short_heads`; `short` S;
    `longest` of the model."""

    def __init__(self, long: Heads, short_heads: Heads | None, short: int, longest: int | None) -> None:
        super().__init__()
        self.long, self.short_heads = long, short_heads
        self.short = min(short, longest or MAX_LENGTH)
        self.parts = long.parts * (1 if short_heads is None else 2)
        self.bucket: Tensor
        self.register_buffer("bucket", torch.from_numpy(bucket_of_recency()[1 : self.short + 1].astype("int64")), persistent=False)

    def forward(self, batch: UserBatch, kept: Kept, content: Content) -> Tensor:
        pooled = attend(self.long.questions(content.target_MR), kept_content(kept, content), kept.valid_MK)
        interest = [self.long.joined(pooled)]
        if self.short_heads is not None:
            interest.append(self.short_heads.joined(self._newest(self.short_heads, batch, content)))
        return torch.cat(interest, dim=1)

    def _newest(self, heads: Heads, batch: UserBatch, content: Content) -> Tensor:
        num_targets, candidates = batch.target_item_TC.shape
        place_TS = batch.length_T[:, None] - torch.arange(1, self.short + 1)
        item_category = content.rows.behavior_LD[place_TS.clamp_min(0)]
        recency = content.recency_PD[self.bucket].expand(num_targets, -1, -1)
        question = heads.questions(content.target_MR).reshape(num_targets, candidates * heads.heads, -1)
        pooled = attend(question, torch.cat([item_category, recency], dim=2), place_TS >= 0)
        return pooled.reshape(num_targets * candidates, heads.heads, -1)


@register("pooling", "multi_head", "SIM (arXiv 2006.05639), ETA (arXiv 2108.04468)")
@dataclass(frozen=True, slots=True)
class MultiHeadConfig:
    """`heads` H of width `head_width` each, with value and output maps if `values`; `short` newest behaviors attended apart (0: none)."""

    heads: int = 4
    head_width: int = 16
    values: bool = True
    short: int = 20

    def __post_init__(self) -> None:
        for name, least in (("heads", 1), ("head_width", 1), ("short", 0)):
            integer(name, getattr(self, name), least, 1024)
        if not isinstance(self.values, bool):
            raise ValueError(f"values must be true or false, got {self.values!r}")

    def build(self, parts: Parts) -> MultiHead:
        """The stage."""

        def made() -> Heads:
            return Heads(parts.width, parts.width, self.heads, self.head_width, self.values)

        return MultiHead(made(), made() if self.short else None, self.short, parts.config.longest)
